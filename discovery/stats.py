"""Arrays → intervals, p-values and adjusted p-values."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats
from scipy.special import gammaln, ndtri

PROB_FLOOR = 1e-6
"""Probabilities are clipped to [floor, 1 - floor] before log-odds are taken: |logit| ≤ 13.8."""
FLIP_CELLS = 2**14
"""Steps into which the sum of sizes is divided by the sign-flip test, at least."""


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
    z, share = -ndtri((1 - confidence) / 2), successes / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # At 0 and n the bound is the share itself; rounding must not push it past.
    return Estimate(share, float(min(middle - reach, share)), float(max(middle + reach, share)))


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

    For two binary variables it is the exact form of the permutation test that shuffles one of them. The sum over all
    tables that are no likelier is taken at once, which is many times faster than `scipy.stats.fisher_exact`.
    """
    (a, b), (c, d) = np.asarray(table, np.int64).tolist()
    rows, columns, n = (a + b, c + d), (a + c, b + d), a + b + c + d
    if 0 in rows or 0 in columns:
        return 1.0
    first = np.arange(max(0, columns[0] - rows[1]), min(rows[0], columns[0]) + 1)
    cells = (first, rows[0] - first, columns[0] - first, n - rows[0] - columns[0] + first)
    log_p = -sum(gammaln(cell + 1.0) for cell in cells)
    prob = np.exp(log_p - log_p.max())
    # A table as likely as the observed one may come out a rounding error above it (the tolerance of R's fisher.test).
    return float(min(1.0, prob[prob <= prob[a - first[0]] * (1 + 1e-7)].sum() / prob.sum()))


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
    return float(min(1.0, (ndtri(power) - ndtri(level / 2)) * spread))


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


def sign_flip_p(values: np.ndarray) -> float:
    """Returns the two-sided p-value that (n,) paired differences are symmetric around zero, over all 2ⁿ signs.

    Exact but for rounding to a grid of `FLIP_CELLS` steps, which is done to the larger p-value: the distribution of the
    sum is built up value by value (Pagano & Tritchler 1983). Zeros say nothing and are left out.
    """
    size = np.abs(np.asarray(values, np.float64))
    told = size > 1e-12
    size = size[told]
    if not len(size):
        return 1.0
    cells = max(FLIP_CELLS, 64 * len(size)) / size.sum()
    steps = np.rint(size * cells).astype(int)
    # Of all signs, the sum of the values with a plus: it is at least `least` as often as its complement is.
    share = np.zeros(steps.sum() + 1)
    share[0], end = 1.0, 1
    for step in steps.tolist():
        share[: end + step] = (np.pad(share[:end], (0, step)) + np.pad(share[:end], (step, 0))) / 2
        end += step
    observed = abs(np.asarray(values, np.float64)[told].sum())
    least = (size.sum() + observed) / 2 * cells - np.abs(size * cells - steps).sum()
    return float(min(1.0, 2 * share[max(0, int(np.ceil(least - 1e-6))) :].sum()))


def max_t_p(
    shown: sparse.csr_matrix, right: np.ndarray, strata: np.ndarray, permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns (cues,) family-wise adjusted p-values: single-step max-T (Westfall & Young 1993, section 2.6).

    Whether a photo is right is shuffled among the photos of its stratum, once for all cues together, so that cues seen
    in the same photos cost no more than one. Each gap is studentised by its mean and variance under that shuffling,
    which is the Mantel–Haenszel statistic (1959). The observed order counts as one of the permutations.

    Args:
        shown: (cues, n) presences.
        right: (n,) bool.
        strata: (n,) any; the split of each photo.
        permutations: number of shuffles.
        rng: of the shuffles.
    """
    shown, right = shown.astype(np.float32), right.astype(np.float32)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    mean, variance = np.zeros((2, shown.shape[0]))
    for photos in members:
        n, hits = len(photos), float(right[photos].sum())
        with_cue = np.asarray(shown[:, photos].sum(axis=1)).ravel()
        mean += with_cue * hits / n
        variance += with_cue * (n - with_cue) * hits * (n - hits) / (n**2 * max(n - 1, 1))
    spread = np.sqrt(np.where(variance > 0, variance, np.inf))  # a cue that never varies within a stratum has no gap
    observed = np.abs(shown @ right - mean) / spread
    largest = []
    for chunk in _chunks(permutations, max(1, 4_000_000 // max(len(right), 1))):
        shuffled = np.empty((chunk, len(right)), np.float32)
        for photos in members:
            shuffled[:, photos] = rng.permuted(np.tile(right[photos], (chunk, 1)), axis=1)
        largest.append((np.abs(shown @ shuffled.T - mean[:, None]) / spread[:, None]).max(axis=0, initial=0.0))
    beaten = np.concatenate(largest)[None, :] >= observed[:, None] * (1 - 1e-6)
    return (1 + beaten.sum(axis=1)) / (1 + permutations)


def extreme_gap(score: np.ndarray, hit: np.ndarray, k: int) -> float:
    """Returns the share of hits among the k highest scores minus that among the k lowest (Moayeri et al. 2023).

    Ties at a boundary share the places left for them evenly: the mean over all ways of breaking them at random. k is
    cut to n // 2, so that the two ends never overlap; NaN when there is nothing to tell apart.
    """
    k = min(k, len(score) // 2)
    if k < 1 or np.ptp(score) == 0:
        return float("nan")
    return float((_top_places(score, k) - _top_places(-score, k)) @ hit / k)


def adjust(p_values: np.ndarray) -> np.ndarray:
    """Returns Benjamini–Hochberg adjusted p-values (1995); NaN stays NaN and is not counted."""
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    tried = ~np.isnan(p_values)
    if tried.any():
        adjusted[tried] = stats.false_discovery_control(p_values[tried], method="bh")
    return adjusted


def _top_places(score: np.ndarray, k: int) -> np.ndarray:
    """Returns (n,) shares of membership among the k highest scores; they sum to k."""
    boundary = np.partition(score, -k)[-k]
    above, tied = score > boundary, score == boundary
    return above + tied * (k - above.sum()) / tied.sum()


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
