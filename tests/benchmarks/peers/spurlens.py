"""Evidence → SpurLens: accuracy on the images that score a cue highest minus on those that score it lowest."""

from dataclasses import dataclass

import numpy as np

from .interface import Evidence, Ranking, every_pair, rank_findings

K = 50


@dataclass(frozen=True)
class Gaps:
    """SpurLens's two gaps.

    Attributes:
        accuracy: (q, c) PA gap, on images of the class.
        hallucination: (q, c) HR gap: how often other classes' images are taken for the class.
    """

    accuracy: np.ndarray
    hallucination: np.ndarray


def spurlens(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Ranks pairs of cue and class by PA gap (arXiv 2503.08884).

    Reports: every gap above 0.
    Trap: no statistics and ties at score 0 broken at random, so that noise alone gives gaps, and half are reported.
    """
    gaps = spurlens_gaps(evidence, rng)
    return rank_findings(evidence, every_pair(gaps.accuracy, gaps.accuracy > 0), rng)


def spurlens_gaps(evidence: Evidence, rng: np.random.Generator) -> Gaps:
    """Measures PA and HR gaps with K = 50, at most half of the images, so that top and bottom never overlap."""
    shape = (len(evidence.cue_words), evidence.n_classes)
    accuracy, hallucination = np.zeros(shape), np.zeros(shape)
    for label in range(evidence.n_classes):
        own = evidence.label == label
        taken = evidence.predicted == label
        accuracy[:, label] = top_minus_bottom(evidence.cue_score[:, own], taken[own], K, rng)
        hallucination[:, label] = top_minus_bottom(evidence.cue_score[:, ~own], taken[~own], K, rng)
    return Gaps(accuracy, hallucination)


def top_minus_bottom(score: np.ndarray, outcome: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Mean outcome of the k images that score highest minus that of the k lowest; ties are broken at random.

    Args:
        score: (q, n) of each cue in each image.
        outcome: (n,) bool.
        k: images at either end, at most n // 2.

    Returns:
        (q,) float64 in [-1, 1]; 0 for fewer than two images.
    """
    k = min(k, len(outcome) // 2)
    if k == 0:
        return np.zeros(len(score))
    ranked = outcome[np.lexsort((rng.random(score.shape), score), axis=1)]
    return ranked[:, -k:].mean(axis=1) - ranked[:, :k].mean(axis=1)
