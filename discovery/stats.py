"""Arrays → intervals, p-values and adjusted p-values."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

PROB_FLOOR = 1e-6
"""Probabilities are clipped to [floor, 1 - floor] before log-odds are taken: |logit| ≤ 13.8."""


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval; all NaN when there is nothing to estimate from."""

    value: float
    low: float
    high: float


NOTHING = Estimate(np.nan, np.nan, np.nan)


def logit(prob: np.ndarray) -> np.ndarray:
    """Returns natural log-odds of probabilities clipped at `PROB_FLOOR`."""
    clipped = np.clip(np.asarray(prob, np.float64), PROB_FLOOR, 1 - PROB_FLOOR)
    return np.log(clipped) - np.log1p(-clipped)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Returns a proportion with its Wilson score interval (Wilson 1927)."""
    if n == 0:
        return NOTHING
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return Estimate(successes / n, interval.low, interval.high)


def gap(hits_with: int, n_with: int, hits_without: int, n_without: int, confidence: float = 0.95) -> Estimate:
    """Returns a difference of two proportions with Newcombe's hybrid interval (Newcombe 1998, method 10)."""
    one = wilson(hits_with, n_with, confidence)
    two = wilson(hits_without, n_without, confidence)
    if n_with == 0 or n_without == 0:
        return NOTHING
    value = one.value - two.value
    below = np.hypot(one.value - one.low, two.high - two.value)
    above = np.hypot(one.high - one.value, two.value - two.low)
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above))


def table_p(table: np.ndarray) -> float:
    """Returns the two-sided Fisher exact p-value of a (2, 2) table of counts.

    For two binary variables it is the exact form of the permutation test that shuffles one of them.
    """
    table = np.asarray(table, np.int64)
    if (table.sum(axis=0) == 0).any() or (table.sum(axis=1) == 0).any():
        return 1.0
    return float(min(1.0, stats.fisher_exact(table).pvalue))


@dataclass(frozen=True)
class Bias:
    """How strongly a cue's presence and a class go together.

    Attributes:
        z: z-statistic of the share of the cue in the class against the rest (pooled two-proportion test).
        cramers_v: effect size in [0, 1], sign dropped; for a (2, 2) table it is |phi|.
        p: two-sided Fisher exact p-value.
    """

    z: float
    cramers_v: float
    p: float


def presence_bias(n_class_with: int, n_class: int, n_rest_with: int, n_rest: int) -> Bias:
    """Measures presence–label bias from counts of images (NLI z-statistics, Wu et al. 2022)."""
    table = np.array([[n_class_with, n_class - n_class_with], [n_rest_with, n_rest - n_rest_with]], np.int64)
    if (table.sum(axis=0) == 0).any() or (table.sum(axis=1) == 0).any():
        return Bias(0.0, 0.0, 1.0)
    share = table[:, 0].sum() / table.sum()
    spread = np.sqrt(share * (1 - share) * (1 / n_class + 1 / n_rest))
    z = (n_class_with / n_class - n_rest_with / n_rest) / spread
    return Bias(float(z), float(abs(z) / np.sqrt(table.sum())), table_p(table))


def detectable_gap(n_with: int, n_without: int, accuracy: float, level: float, power: float) -> float:
    """Returns the smallest accuracy gap that these counts would show with this power; 1 when none.

    Normal approximation of the two-sample test of proportions (Fleiss, Levin & Paik 2003, section 4.2).
    """
    if n_with == 0 or n_without == 0:
        return 1.0
    spread = np.sqrt(max(accuracy * (1 - accuracy), 0.01) * (1 / n_with + 1 / n_without))
    return float(min(1.0, (stats.norm.isf(level / 2) + stats.norm.isf(1 - power)) * spread))


def mean_interval(values: np.ndarray, resamples: int, rng: np.random.Generator, confidence: float = 0.95) -> Estimate:
    """Returns a mean with its BCa bootstrap interval over (n,) independent values (Efron 1987)."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return NOTHING if not len(values) else Estimate(float(values[0]), np.nan, np.nan)
    if np.ptp(values) < 1e-12:
        return Estimate(float(values.mean()), float(values.min()), float(values.max()))
    found = stats.bootstrap((values,), np.mean, n_resamples=resamples, confidence_level=confidence, rng=rng, batch=500)
    interval = found.confidence_interval
    return Estimate(float(values.mean()), float(interval.low), float(interval.high))


def sign_flip_p(values: np.ndarray, flips: int, rng: np.random.Generator) -> float:
    """Returns the two-sided p-value that (n,) paired differences are symmetric around zero.

    Zeros say nothing and are left out. Monte Carlo over random signs with the observed one counted in
    (Phipson & Smyth 2010), so it is never zero.
    """
    values = np.asarray(values, np.float64)
    values = values[np.abs(values) > 1e-12]
    if not len(values):
        return 1.0
    observed = abs(values.sum()) * (1 - 1e-12)
    sums = np.concatenate([_flipped_sums(values, chunk, rng) for chunk in _chunks(flips, 1000)])
    return float((1 + (np.abs(sums) >= observed).sum()) / (1 + flips))


def adjust(p_values: np.ndarray) -> np.ndarray:
    """Returns Benjamini–Hochberg adjusted p-values (1995); NaN stays NaN and is not counted."""
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    tried = ~np.isnan(p_values)
    if tried.any():
        adjusted[tried] = stats.false_discovery_control(p_values[tried], method="bh")
    return adjusted


def _flipped_sums(values: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return (rng.integers(0, 2, (n, len(values)), dtype=np.int8) * 2.0 - 1.0) @ values


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
