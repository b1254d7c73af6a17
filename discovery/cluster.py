"""Embeddings → `clusters`: spherical k-means over regions, each cluster named by the nearest phrase."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from discovery.backends.encoder import Embedded
from discovery.config import ClusterConfig
from discovery.naming import Exemplars, name_clusters
from discovery.run import Run, Stage

EXEMPLARS = 50
POINTS_PER_CENTROID = 128
"""Regions per cluster that k-means is trained on at most; time grows with them."""


@dataclass(frozen=True)
class Clustering:
    """Centroids of spherical k-means.

    Attributes:
        centroids: (k, d) float32, unit norm.
        silhouette: of the chosen k on the sample, cosine distance.
    """

    centroids: np.ndarray
    silhouette: float

    def assign(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (n,) int cluster ids and (n,) float32 cosine distances of (n, d) unit-norm embeddings."""
        import faiss

        index = faiss.IndexFlatIP(self.centroids.shape[1])
        index.add(self.centroids)
        similarity, nearest = index.search(np.ascontiguousarray(embeddings, np.float32), 1)
        return nearest[:, 0], 1 - similarity[:, 0]


def cluster(embeddings: np.ndarray, config: ClusterConfig, seed: int) -> Clustering:
    """Clusters unit-norm embeddings by cosine and chooses k by silhouette on a sample.

    Args:
        embeddings: (n, d) float32, unit norm: a sample of all regions.
        config: the candidates for k; those above n / 4 are left out.
        seed: of k-means and of the sample.
    """
    rng = np.random.default_rng(seed)
    judged = embeddings[rng.permutation(len(embeddings))[: config.silhouette_sample]]
    best = Clustering(_unit(embeddings.mean(axis=0, keepdims=True)), -1.0)
    for k in sorted(set(config.k_candidates)):
        if k * 4 > len(embeddings):
            continue
        tried = Clustering(_spherical_kmeans(embeddings, k, config.iterations, seed), 0.0)
        silhouette = cosine_silhouette(judged, tried.assign(judged)[0])
        if silhouette > best.silhouette:
            best = Clustering(tried.centroids, silhouette)
    return best


def cosine_silhouette(embeddings: np.ndarray, ids: np.ndarray) -> float:
    """Returns the mean silhouette (Rousseeuw 1987) by cosine distance, exactly and without the (n, n) distances.

    The distances of x to the m members of a cluster add up to m − x · (the sum of the members).

    Args:
        embeddings: (n, d) float32, unit norm.
        ids: (n,) int cluster of each.

    Returns:
        A number in [-1, 1]; -1 for fewer than two clusters, or when each has one member.
    """
    names, ids = np.unique(ids, return_inverse=True)
    if not 1 < len(names) < len(ids):
        return -1.0
    rows, member = np.arange(len(ids)), np.eye(len(names), dtype=np.float32)[ids]
    size = member.sum(axis=0)
    total = size - embeddings @ (member.T @ embeddings).T
    own = total[rows, ids] / np.maximum(size[ids] - 1, 1)
    mean = total / size
    mean[rows, ids] = np.inf
    other = mean.min(axis=1)
    width = (other - own) / np.maximum(np.maximum(own, other), 1e-12)
    return float(np.where(size[ids] > 1, width, 0).mean())


def _spherical_kmeans(embeddings: np.ndarray, k: int, iterations: int, seed: int) -> np.ndarray:
    import faiss

    model = faiss.Kmeans(
        embeddings.shape[1],
        k,
        niter=iterations,
        seed=seed,
        spherical=True,
        verbose=False,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_PER_CENTROID,
    )
    model.train(np.ascontiguousarray(embeddings, np.float32))
    return _unit(model.centroids)


def _work(run: Run, _: int | None) -> pl.DataFrame:
    config = run.config
    sample = _sample(run, config.cluster.sample, config.seed)
    if sample is None:
        return _frame(pl.Series("region_id", [], pl.String), np.empty(0, int), np.empty(0), {})
    found = cluster(sample.embedded.embedding, config.cluster, config.seed)
    exemplars = _exemplars(found, sample)
    del sample  # the encoder is loaded last, when what it needs is all there is
    regions, ids, distances = _assign_all(run, found)
    return _frame(regions, ids, distances, name_clusters(run, exemplars))


def _sample(run: Run, size: int, seed: int) -> Exemplars | None:
    """Draws the same share of every part, so that memory does not grow with the dataset."""
    total = sum(len(part) for part in run.scan("embeddings", ["region_id"]))
    if not total:
        return None
    rng = np.random.default_rng(seed)
    regions, vectors, norms = [], [], []
    for part in run.scan("embeddings", ["region_id", "embedding", "norm"]):
        if not len(part):
            continue
        keep = np.sort(rng.permutation(len(part))[: -(-size * len(part) // total)])
        regions.append(part["region_id"].to_numpy()[keep])
        vectors.append(_matrix(part["embedding"])[keep])
        norms.append(part["norm"].to_numpy()[keep])
    return Exemplars(np.concatenate(regions), Embedded(np.concatenate(vectors), np.concatenate(norms)))


def _exemplars(found: Clustering, sample: Exemplars) -> dict[int, Exemplars]:
    """Returns the sampled regions nearest to the centroid of each cluster that has any."""
    ids, distances = found.assign(sample.embedded.embedding)
    exemplars = {}
    for cluster_id in range(len(found.centroids)):
        members = np.flatnonzero(ids == cluster_id)
        members = members[np.argsort(distances[members], kind="stable")][:EXEMPLARS]
        if len(members):
            exemplars[cluster_id] = sample.pick(members)
    return exemplars


def _assign_all(run: Run, found: Clustering) -> tuple[pl.Series, np.ndarray, np.ndarray]:
    """Returns region ids, cluster ids and distances of all regions, reading part by part."""
    regions, ids, distances = [], [], []
    for part in run.scan("embeddings", ["region_id", "embedding"]):
        if len(part):
            nearest, distance = found.assign(_matrix(part["embedding"]))
            regions.append(part["region_id"])
            ids.append(nearest.astype(np.int32))
            distances.append(distance)
    return pl.concat(regions), np.concatenate(ids), np.concatenate(distances)


def _frame(region_ids: pl.Series, ids: np.ndarray, distances: np.ndarray, names: dict) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "region_id": region_ids,
            "cluster_id": ids.astype(np.int32),
            "distance": distances.astype(np.float32),
            "phrase": [names[i][0] if i in names else None for i in ids.tolist()],
            "kind": [names[i][1] if i in names else None for i in ids.tolist()],
        },
        schema_overrides={"phrase": pl.String, "kind": pl.String},
    )


def _matrix(vectors: pl.Series) -> np.ndarray:
    """Returns a list column of equal lengths as (n, d) float32 without copying it row by row."""
    return vectors.explode().to_numpy().reshape(len(vectors), -1)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


STAGE = Stage(
    name="cluster",
    table="clusters",
    inputs=("samples", "regions", "embeddings", "attributes"),
    config=lambda config: (config.cluster, config.embed.encoder, config.embed.namer, config.dataset.root),
    work=_work,
)
