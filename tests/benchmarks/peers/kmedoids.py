"""Embeddings of regions → RaVL's clusters: k-medoids for every k of its range, the best silhouette kept."""

from dataclasses import dataclass

import numpy as np

MAX_ITERATIONS = 300
BLOCK = 1024


@dataclass(frozen=True)
class Clusters:
    """A k-medoids clustering.

    Attributes:
        cluster: (n,) int64 of each region.
        medoid: (k,) int64 row of each cluster's medoid.
        silhouette: mean over regions; -1 where there was nothing to choose from.
    """

    cluster: np.ndarray
    medoid: np.ndarray
    silhouette: float


def ravl_clusters(embeddings: np.ndarray, n_classes: int, rng: np.random.Generator) -> Clusters:
    """Clusters as RaVL does (arXiv 2411.04097, section 3.1): every k in [2|Y|, 5|Y|), largest silhouette.

    k-medoids++ and alternation, the settings of its published code. Its code stops where no silhouette is above 0;
    this keeps the largest in any case.

    Args:
        embeddings: (n, d) float32, unit norm. The distances take 4 n² bytes.
        n_classes: |Y|.
        rng: draws the first medoids.
    """
    distance = clipped_cosine_distance(embeddings)
    best = Clusters(np.zeros(len(distance), np.int64), np.zeros(min(1, len(distance)), np.int64), -1.0)
    for k in range(2 * n_classes, 5 * n_classes):
        if k < len(distance):
            tried = kmedoids(distance, k, rng)
            best = tried if tried.silhouette > best.silhouette else best
    return best


def clipped_cosine_distance(embeddings: np.ndarray) -> np.ndarray:
    """Returns (n, n) float32 clip(1 - E Eᵀ, 0, 1): all that point away from each other are equally far."""
    distance = embeddings @ embeddings.T
    np.subtract(1, distance, out=distance)
    np.clip(distance, 0, 1, out=distance)
    np.fill_diagonal(distance, 0)
    return distance


def kmedoids(distance: np.ndarray, k: int, rng: np.random.Generator) -> Clusters:
    """Alternates between nearest medoid and best medoid of each cluster until no medoid moves (Park and Jun 2009)."""
    medoid = _first_medoids(distance, k, rng)
    for _ in range(MAX_ITERATIONS):
        cluster = distance[medoid].argmin(axis=0)
        moved = _best_medoids(distance, cluster, medoid)
        if (moved == medoid).all():
            break
        medoid = moved
    cluster = distance[medoid].argmin(axis=0)
    return Clusters(cluster, medoid, silhouette(distance, cluster))


def _first_medoids(distance: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Draws medoids far from those before (k-means++ on squared distances, the best of 2 + ln k draws each time)."""
    medoid = [int(rng.integers(len(distance)))]
    nearest = distance[medoid[0]].astype(np.float64) ** 2
    while len(medoid) < k:
        total = nearest.sum()
        weight = nearest / total if total > 0 else None
        drawn = rng.choice(len(distance), 2 + int(np.log(k)), p=weight)
        left = np.minimum(nearest, distance[drawn].astype(np.float64) ** 2)
        best = int(left.sum(axis=1).argmin())
        medoid.append(int(drawn[best]))
        nearest = left[best]
    return np.array(medoid)


def _best_medoids(distance: np.ndarray, cluster: np.ndarray, medoid: np.ndarray) -> np.ndarray:
    """Returns for each cluster the member nearest to all members; the old one unless another is nearer."""
    best = medoid.copy()
    for i, old in enumerate(medoid):
        members = np.flatnonzero(cluster == i)
        if len(members):
            cost = _cost(distance, members, members)
            nearest = int(cost.argmin())
            if cost[nearest] < _cost(distance, np.array([old]), members)[0]:
                best[i] = members[nearest]
    return best


def _cost(distance: np.ndarray, rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Sums distances from rows to members block by block: a large cluster is never copied whole."""
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    return np.concatenate([distance[np.ix_(block, members)].sum(axis=1) for block in blocks])


def silhouette(distance: np.ndarray, cluster: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987) of (n,) clusters on (n, n) distances; -1 for fewer than two clusters."""
    ids, cluster = np.unique(cluster, return_inverse=True)
    if not 1 < len(ids) < len(cluster):
        return -1.0
    rows = np.arange(len(cluster))
    member = np.eye(len(ids), dtype=np.float32)[cluster]
    size = member.sum(axis=0)
    total = distance @ member
    own = total[rows, cluster] / np.maximum(size[cluster] - 1, 1)
    mean = total / size
    mean[rows, cluster] = np.inf
    other = mean.min(axis=1)
    width = (other - own) / np.maximum(np.maximum(own, other), 1e-12)
    return float(np.where(size[cluster] > 1, width, 0).mean())
