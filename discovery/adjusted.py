"""Presences and hits of one class → accuracy gaps adjusted for what comes with a cue: split, other cues, difficulty.

Augmented inverse probability weighting (Robins, Rotnitzky & Zhao 1994, eq. 3.1), its two nuisance models cross-fitted
(Chernozhukov et al. 2018, section 5.1). The answer is right when either model is: the one of accuracy given the other
variables, or the one of presence given them. Both are ridge regressions, so a pair costs well under a millisecond.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from discovery.config import AssociateConfig

FOLDS = 5
PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e5)
"""On the coefficients of standardised covariates: each model takes that with the smallest error on its own folds."""
PROPENSITY = (0.05, 0.95)
"""Modelled shares of presence are clipped to this, so that no photo weighs more than twenty."""
_PSEUDO = 0.5
"""Squared error of one further right and one further wrong photo at even odds (after Agresti & Caffo 2000)."""


@dataclass(frozen=True)
class Setting:
    """What else is known of the n audited photos of a class.

    Attributes:
        right: (n,) bool.
        split: (n,) str.
        pixels: (n,) sizes.
    """

    right: np.ndarray
    split: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class AdjustedGap:
    """Accuracy with a cue minus without, everything else alike: value, normal interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


def adjusted_gaps(
    shown: np.ndarray, photos: Setting, config: AssociateConfig, rng: np.random.Generator
) -> list[AdjustedGap | None]:
    """Measures the adjusted gap of every cue that was tried in a class.

    A split counts only if it has at least five photos with the cue and five without (one in each fold): elsewhere
    there is nothing to compare with. None where fewer than `min_group` photos with or without it are left, for which
    neither the models nor the normal approximation can be trusted.

    Args:
        shown: (cues, n) bool.
        photos: of the same n photos.
        config: confidence, `min_group`, and which other cues are adjusted for.
        rng: of the folds.
    """
    phi = _phi(shown)
    found = []
    for cue in range(len(shown)):
        keep = _comparable(shown[cue], photos.split)
        with_cue = int((shown[cue] & keep).sum())
        if min(with_cue, int(keep.sum()) - with_cue) < config.min_group:
            found.append(None)
            continue
        beside = _covariates(shown[:, keep], photos.split[keep], photos.pixels[keep], phi[cue], config)
        folds = _folds(shown[cue, keep], photos.split[keep], rng)
        found.append(adjusted_gap(shown[cue, keep], photos.right[keep], beside, folds, config.confidence))
    return found


def adjusted_gap(
    shown: np.ndarray, right: np.ndarray, covariates: np.ndarray, folds: np.ndarray, confidence: float
) -> AdjustedGap:
    """Returns the cross-fitted AIPW difference in accuracy, with the cue minus without.

    Weights are normalised within each group (Hájek 1971), and the influence function's standard error is read off a
    t-distribution with Welch's degrees of freedom, each group as large as its weights make it (Kish 1965): without
    either, a cue seen in ten or twenty photos is found significant more often than the level says.

    Args:
        shown: (n,) bool, with both values in every fold's complement.
        right: (n,) bool.
        covariates: (n, p) float, any scale.
        folds: (n,) int in [0, FOLDS).
        confidence: of the interval.
    """
    n, a, y = len(shown), shown.astype(float), right.astype(float)
    base, step, propensity = _nuisances(_standardised(covariates), a, y, folds)
    e = np.clip(propensity, *PROPENSITY)
    weight = np.stack([(1 - a) / (1 - e), a / e])
    weight *= n / weight.sum(axis=1, keepdims=True)
    off = weight * (y - base - a * step)
    influence = step + off[1] - off[0]
    alike = weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
    # A small group that is all right shows no spread of its own, which is no proof that its accuracy is 1.
    spare = _PSEUDO / (alike + 2) ** 2
    error = np.sqrt(influence.var(ddof=1) / n + spare.sum())
    parts = (off**2).sum(axis=1) / n**2 + spare
    freedom = parts.sum() ** 2 / (parts**2 / np.maximum(alike - 1, 1)).sum()
    value, reach = influence.mean(), stats.t.isf((1 - confidence) / 2, freedom) * error
    p = float(2 * stats.t.sf(abs(value) / error, freedom))
    return AdjustedGap(*np.clip([value, value - reach, value + reach], -1, 1).tolist(), p)


def _phi(shown: np.ndarray) -> np.ndarray:
    """Returns the (cues, cues) correlations of presences within the class; 0 where one never varies."""
    centred = shown - shown.sum(axis=1, keepdims=True) / max(shown.shape[1], 1)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(length > 0, length, 1.0)
    return unit @ unit.T


def _comparable(shown: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Returns (n,) bool: the photos of splits with at least one photo with the cue and one without for each fold."""
    names, index = np.unique(split, return_inverse=True)
    with_cue, total = np.bincount(index, shown, len(names)), np.bincount(index, minlength=len(names))
    return (np.minimum(with_cue, total - with_cue) >= FOLDS)[index]


def _covariates(
    shown: np.ndarray, split: np.ndarray, pixels: np.ndarray, phi: np.ndarray, config: AssociateConfig
) -> np.ndarray:
    """Returns (n, p) covariates of a cue: other cues, how many there are, the split, and log size.

    Cues that correlate with it by `same_phi` or more are the same thing (it itself among them) and stay out.
    """
    others = np.flatnonzero(np.abs(phi) < config.same_phi)
    nearest = others[np.argsort(-np.abs(phi[others]), kind="stable")][: config.adjust_for]
    splits = (split == name for name in np.unique(split)[1:])
    return np.column_stack([*shown[nearest], shown[others].sum(axis=0), *splits, np.log(np.maximum(pixels, 1))])


def _folds(shown: np.ndarray, split: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns (n,) int: folds of equal size, even within every split with and without the cue."""
    folds = np.empty(len(shown), np.int64)
    folds[np.lexsort((rng.random(len(shown)), shown, split))] = np.arange(len(shown)) % FOLDS
    return folds


def _standardised(covariates: np.ndarray) -> np.ndarray:
    """Returns (n, 1 + p) float64: an intercept, then centred columns of unit variance; constant ones are 0."""
    centred = covariates - covariates.mean(axis=0)
    spread = centred.std(axis=0)
    return np.column_stack([np.ones(len(centred)), centred / np.where(spread > 1e-9, spread, np.inf)])


def _nuisances(design: np.ndarray, a: np.ndarray, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns (3, n) from the other folds: accuracy without the cue, what the cue adds to it, and share of presence.

    In the model of accuracy the cue adds the same everywhere; where it does not, the weighted residuals correct it.
    With a model per group, a handful of photos would have to carry as many coefficients.
    """
    shape = _ridge(np.column_stack([design, a]), y, folds, free=(0, design.shape[1]))
    return np.stack(
        [
            np.einsum("nd,nd->n", design, shape[:, :-1]),
            shape[:, -1],
            np.einsum("nd,nd->n", design, _ridge(design, a, folds, free=(0,))),
        ]
    )


def _ridge(design: np.ndarray, target: np.ndarray, folds: np.ndarray, free: tuple[int, ...]) -> np.ndarray:
    """Returns (n, d): for each photo the coefficients fitted without its fold; columns in `free` bear no penalty.

    Normal equations are summed per fold, so that leaving one out is a subtraction.
    """
    rows = [folds == fold for fold in range(FOLDS)]
    gram = np.stack([design[mine].T @ design[mine] for mine in rows])
    moment = np.stack([design[mine].T @ target[mine] for mine in rows])
    bears = np.diag([float(column not in free) for column in range(design.shape[1])])
    left = (gram.sum(axis=0) - gram)[None] + np.array(PENALTIES)[:, None, None, None] * bears
    right = np.broadcast_to((moment.sum(axis=0) - moment)[None, ..., None], (*left.shape[:3], 1))
    coef = np.linalg.solve(left, right)[..., 0]
    missed = ((np.einsum("nd,lnd->ln", design, coef[:, folds]) - target) ** 2).sum(axis=1)
    return coef[int(np.argmin(missed))][folds]
