"""Evidence → RaVL: clusters of regions, kept where they help one class, harm another and sway the wrong predictions."""

import numpy as np

from .interface import TOP_REGIONS, Evidence, Ranking, pad_regions
from .kmedoids import Clusters, ravl_clusters

MIN_INFLUENCE = 0.25
MAX_REGIONS = 6000


def ravl(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Ranks clusters of regions by G_c, kept ones first (arXiv 2411.04097, section 3.1).

    A cluster stands for the candidate that most of its regions belong to (-1: none), and for the class it helps
    most; of clusters that stand for the same, the best counts. Regions: nearest to the medoid first.
    Reports: the clusters it keeps; those it drops follow with score 0.
    Trap: influence 0.25 is chance at four regions per image, and no gap is tested: most clusters of noise pass.
    Deviation: beyond 6,000 regions a sample is clustered and the others go to the nearest medoid.
    """
    return rank_clusters(evidence, _clusters(evidence.embeddings, evidence.n_classes, rng))


def rank_clusters(evidence: Evidence, found: Clusters) -> Ranking:
    """Ranks given clusters of the regions; see `ravl`."""
    shown = _images_of_clusters(evidence, found)
    gap = cluster_gaps(shown, evidence.label, evidence.correct, evidence.n_classes)
    total = np.abs(gap).sum(axis=1)
    kept = (gap > 0).any(axis=1) & (gap < 0).any(axis=1) & (cluster_influence(evidence, found, gap) >= MIN_INFLUENCE)
    order = np.lexsort((-total, ~kept))
    order = order[shown.any(axis=1)[order]]
    cue = _cue_of_cluster(evidence, found)
    first = _first_of_each(cue[order], gap[order].argmax(axis=1))
    entry = order[first]
    return Ranking(
        cue=cue[entry],
        label=gap[entry].argmax(axis=1),
        score=np.where(kept, total, 0.0)[entry],
        reported=kept[entry],
        region=_nearest_regions(evidence, found, order),
    )


def cluster_gaps(shown: np.ndarray, label: np.ndarray, correct: np.ndarray, n_classes: int) -> np.ndarray:
    """RaVL's weighted gap: 2 min(n_in, n_out) / (n_in + n_out) · (accuracy with the cluster - without).

    Args:
        shown: (k, n) bool which image has a region in which cluster.
        label: (n,) int64.
        correct: (n,) bool.
        n_classes: c.

    Returns:
        (k, c) float64; 0 where all images of a class show the cluster or none does. G_c is the sum of |gap|.
    """
    member = np.eye(n_classes)[label]
    right = member * correct[:, None]
    n_in, right_in = shown @ member, shown @ right
    n_out, right_out = member.sum(axis=0) - n_in, right.sum(axis=0) - right_in
    weight = 2 * np.minimum(n_in, n_out) / np.maximum(n_in + n_out, 1)
    return weight * (right_in / np.maximum(n_in, 1) - right_out / np.maximum(n_out, 1))


def cluster_influence(evidence: Evidence, found: Clusters, gap: np.ndarray) -> np.ndarray:
    """RaVL's H_c: how often the region that speaks most for a wrong prediction lies in the cluster.

    Over wrong images with a region in the cluster and more than one in all, class by class where the gap is
    negative; the largest class counts.

    Returns:
        (k,) float64 in [0, 1]; -inf where no such image exists.
    """
    shown = _images_of_clusters(evidence, found)
    regions = np.bincount(evidence.image, minlength=len(evidence.label))
    counted = ~evidence.correct & (regions > 1)
    strongest = _strongest_cluster(evidence, found.cluster)
    influence = np.full(len(gap), -np.inf)
    for c, label in zip(*np.nonzero(gap < 0), strict=True):
        images = shown[c] & counted & (evidence.label == label)
        if images.any():
            influence[c] = max(influence[c], (strongest[images] == c).mean())
    return influence


def _strongest_cluster(evidence: Evidence, cluster: np.ndarray) -> np.ndarray:
    """Returns (n,) the cluster of each image's region with the highest probability of the image's predicted class."""
    prob = evidence.region_probs[np.arange(len(cluster)), evidence.predicted[evidence.image]]
    rising = np.argsort(prob, kind="stable")
    strongest = np.full(len(evidence.label), -1)
    strongest[evidence.image[rising]] = cluster[rising]  # the last one written is the highest
    return strongest


def _clusters(embeddings: np.ndarray, n_classes: int, rng: np.random.Generator) -> Clusters:
    if len(embeddings) <= MAX_REGIONS:
        return ravl_clusters(embeddings, n_classes, rng)
    drawn = np.sort(rng.permutation(len(embeddings))[:MAX_REGIONS])
    found = ravl_clusters(embeddings[drawn], n_classes, rng)
    medoid = drawn[found.medoid]
    return Clusters((embeddings @ embeddings[medoid].T).argmax(axis=1), medoid, found.silhouette)


def _images_of_clusters(evidence: Evidence, found: Clusters) -> np.ndarray:
    shown = np.zeros((len(found.medoid), len(evidence.label)), bool)
    shown[found.cluster, evidence.image] = True
    return shown


def _cue_of_cluster(evidence: Evidence, found: Clusters) -> np.ndarray:
    votes = np.zeros((len(found.medoid), len(evidence.cue_words) + 1), np.int64)
    np.add.at(votes, (found.cluster, evidence.cue_of_region), 1)  # -1, no candidate, votes in the last column
    cue = votes.argmax(axis=1)
    return np.where(cue == len(evidence.cue_words), -1, cue)


def _first_of_each(cue: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns where each pair of cue and label comes first; what is no candidate is never the same twice."""
    first: dict[tuple[int, int, int], int] = {}
    for i, pair in enumerate(zip(cue.tolist(), label.tolist(), strict=True)):
        first.setdefault((*pair, i if pair[0] < 0 else -1), i)
    return np.array(list(first.values()), np.int64)


def _nearest_regions(evidence: Evidence, found: Clusters, order: np.ndarray) -> np.ndarray:
    """Returns the (10,) regions nearest to the medoid of the first cluster, then of the next."""
    regions: list[int] = []
    for c in order.tolist():
        if len(regions) >= TOP_REGIONS:
            break
        members = np.flatnonzero(found.cluster == c)
        similarity = evidence.embeddings[members] @ evidence.embeddings[found.medoid[c]]
        regions += members[np.argsort(-similarity, kind="stable")].tolist()
    return pad_regions(regions)
