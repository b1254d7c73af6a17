"""Evidence → Spuriosity Rankings: accuracy on the most minus on the least spurious images of a class."""

import numpy as np

from .interface import Evidence, Finding, Ranking, rank_findings
from .spurlens import top_minus_bottom

K = 10
FEATURES = 5


def spuriosity_rankings(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Ranks the five most typical cues of each class by their signed gap at k = 10 (NeurIPS 2023, arXiv 2212.02648).

    People sort each class's five features into core and spurious ones there; here all five stay. The spuriosity of
    one cue is its score, as the z-score within a class does not change the order.
    Reports: its top five, having no rule of its own.
    Trap: ten images at either end: one mistake is a gap of 0.1. A negative gap is real but ranks last.
    """
    cues, labels, gaps = [], [], []
    for label, typical in enumerate(_typical_cues(evidence)):
        own = evidence.label == label
        gaps.append(top_minus_bottom(evidence.cue_score[typical][:, own], evidence.correct[own], K, rng))
        cues.append(typical)
        labels.append(np.full(len(typical), label))
    return rank_findings(evidence, Finding(*map(np.concatenate, (cues, labels, gaps))), rng)


def _typical_cues(evidence: Evidence) -> list[np.ndarray]:
    """Returns for each class the cues whose mean standardised score over its images is highest."""
    score = evidence.cue_score.astype(np.float64)
    z = (score - score.mean(axis=1, keepdims=True)) / np.maximum(score.std(axis=1, keepdims=True), 1e-12)
    member = np.eye(evidence.n_classes)[evidence.label]
    mean = z @ member / np.maximum(member.sum(axis=0), 1)
    return list(np.argsort(-mean, axis=0, kind="stable")[:FEATURES].T)
