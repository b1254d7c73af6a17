"""Scores of a detector → the score from which a phrase counts as present: set by the user, learned, or a prior."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from discovery.run import Run
from discovery.schema import CLASS_ITSELF

ASKED_FOR = pl.col("attribute_id").is_not_null() & (pl.col("attribute_id") != CLASS_ITSELF)
"""Rows of `regions` that may show a candidate cue: not class-agnostic, and not the class itself."""
SAMPLE = 20_000
"""Scores that a mixture is fitted to at most."""
FEWEST = 200
"""Fewer scores say nothing about the shape of their distribution."""


@dataclass(frozen=True)
class Prior:
    """What is taken for a detector's threshold when its scores do not show one, and between what a learned one lies.

    The range matters because scores under a detector's floor were never written: of what is absent only the upper tail
    is seen, and a mixture fitted to a tail can lie far off.
    """

    value: float
    low: float
    high: float


PRIORS = {
    "conse": Prior(3.0, 2.5, 4.5),
    "appearance": Prior(0.5, 0.4, 0.6),
    "text": Prior(0.5, 0.4, 0.6),
    "owlv2": Prior(0.2, 0.1, 0.5),
    "owlvit": Prior(0.1, 0.05, 0.4),
    "grounding_dino": Prior(0.3, 0.2, 0.6),
    "mm_grounding_dino": Prior(0.3, 0.2, 0.6),
    "yolo_world": Prior(0.25, 0.05, 0.6),
    "yoloe": Prior(0.25, 0.1, 0.6),
    "exemplar": Prior(0.4, 0.3, 0.98),
    "exemplar_owlv2": Prior(0.6, 0.3, 0.98),
}
"""conse is in standard deviations. The computed ones are built to hold at 0.5, so little is left to learn there. The
open-set models' are their makers' usual thresholds: none of their real weights was run here (docs/backends.md).
exemplar is what parts planted stickers from their absence with the offline encoder (docs/benchmarks.md)."""
OTHER = Prior(0.5, 0.05, 0.95)
"""Any other detector whose scores lie in [0, 1]."""


@dataclass(frozen=True)
class Threshold:
    """A score from which a phrase is present, and where it comes from."""

    value: float
    origin: Literal["set", "learned", "prior"]


def run_thresholds(run: Run) -> dict[str, Threshold]:
    """Returns the threshold of every detector that looked for the candidate cues of a run."""
    scores: dict[str, list[np.ndarray]] = {}
    for part in run.scan("regions", ["sample_id", "attribute_id", "detector", "score"]):
        asked = part.filter(ASKED_FOR).group_by("detector", "sample_id", "attribute_id", maintain_order=True)
        for (name,), mine in asked.agg(pl.col("score").max()).group_by("detector", maintain_order=True):
            scores.setdefault(name, []).append(mine["score"].to_numpy())
    found = {name: np.concatenate(parts) for name, parts in scores.items()}
    return thresholds(found, run.config.presence.thresholds, np.random.default_rng(run.config.seed))


def thresholds(
    scores: Mapping[str, np.ndarray], chosen: Mapping[str, float], rng: np.random.Generator
) -> dict[str, Threshold]:
    """Returns the threshold of every detector.

    Args:
        scores: detector → (n,) best score of each photo and phrase that it wrote a region for.
        chosen: detector → the user's own threshold, which is taken as it is.
        rng: of the sampling; detectors are taken in alphabetical order.
    """
    return {
        name: Threshold(chosen[name], "set")
        if name in chosen
        else learn_threshold(scores[name], PRIORS.get(name, OTHER), rng)
        for name in sorted(scores)
    }


def learn_threshold(scores: np.ndarray, prior: Prior, rng: np.random.Generator) -> Threshold:
    """Returns where the upper of two Gaussian components becomes the likelier one, cut to the prior's range.

    The prior stands when one component describes the scores as well (BIC, Schwarz 1978) or when the components do not
    trade places between their means.

    Args:
        scores: (n,) best score of each photo and phrase.
        prior: what stands otherwise.
        rng: of the sample and of the start of the fit.
    """
    if len(scores) < FEWEST or np.ptp(scores) == 0:
        return Threshold(prior.value, "prior")
    some = rng.choice(scores, min(SAMPLE, len(scores)), replace=False).astype(np.float64)[:, None]
    one, two = (_fitted(some, components, int(rng.integers(2**31))) for components in (1, 2))
    at = _crossing(two) if two.bic(some) < one.bic(some) else None
    if at is None:
        return Threshold(prior.value, "prior")
    return Threshold(round(float(np.clip(at, prior.low, prior.high)), 2), "learned")


def _fitted(scores: np.ndarray, components: int, seed: int) -> GaussianMixture:
    mixture = GaussianMixture(components, n_init=2, max_iter=300, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the threshold is rounded to two digits
        return mixture.fit(scores)


def _crossing(mixture: GaussianMixture) -> float | None:
    """Returns the first score between the two means at which the upper component is the likelier one."""
    low, high = np.sort(mixture.means_.ravel())
    grid = np.linspace(low, high, 2001)
    upper = mixture.predict_proba(grid[:, None])[:, int(np.argmax(mixture.means_))] >= 0.5
    return float(grid[np.argmax(upper)]) if upper[-1] and not upper[0] else None
