"""Evidence → Bias-to-Text: cues that the wrong images of a class score higher than its right ones."""

import numpy as np

from .interface import Evidence, Finding, Ranking, rank_findings


def b2t(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Ranks pairs of cue and class by the mean score of wrong minus right images (CVPR 2024, arXiv 2301.11104).

    Keywords of captions become cues that some wrong image of the class shows, CLIP similarity becomes `cue_score`.
    An entry is about the class that those wrong images are mostly taken for, so that its label means what it means
    for the other methods; where several classes are taken for the same one, the best counts.
    Reports: every positive score.
    Trap: keywords come from errors alone, so a cue that helps its class is only seen where it harms another; any
    difference above 0 counts, and half of them are in noise.
    """
    score, taken_for = wrong_minus_right(evidence), _taken_for(evidence)
    best = np.full(score.shape, -np.inf)
    for label in range(evidence.n_classes):
        rows = np.flatnonzero(taken_for[:, label] >= 0)
        into = taken_for[rows, label]
        best[rows, into] = np.maximum(best[rows, into], score[rows, label])
    cue, label = np.nonzero(np.isfinite(best))
    kept = best[cue, label]
    return rank_findings(evidence, Finding(cue, label, kept, kept > 0), rng)


def wrong_minus_right(evidence: Evidence) -> np.ndarray:
    """Returns (q, c) mean cue score over the wrong images of each class minus over the right; 0 where either lacks."""
    member = np.eye(evidence.n_classes)[evidence.label]
    wrong, right = member * ~evidence.correct[:, None], member * evidence.correct[:, None]
    gap = _mean(evidence.cue_score, wrong) - _mean(evidence.cue_score, right)
    return np.where((wrong.sum(axis=0) > 0) & (right.sum(axis=0) > 0), gap, 0.0)


def _taken_for(evidence: Evidence) -> np.ndarray:
    """Returns (q, c) the commonest prediction for wrong images of a class that show the cue; -1 where none does."""
    into = np.eye(evidence.n_classes)[evidence.predicted]
    found = []
    for label in range(evidence.n_classes):
        wrong = (evidence.label == label) & ~evidence.correct
        counts = evidence.cue_present[:, wrong] @ into[wrong]
        found.append(np.where(counts.any(axis=1), counts.argmax(axis=1), -1))
    return np.stack(found, axis=1)


def _mean(score: np.ndarray, member: np.ndarray) -> np.ndarray:
    return score @ member / np.maximum(member.sum(axis=0), 1)
