"""A cue without room for a control → views with ever more of it removed, and the slope of the log-odds in that dose.

There is no control: the removal of so much of a photo costs something whatever the model reads. So a slope stands
beside the swap and makes no verdict.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import polars as pl

from discovery.config import AblateConfig, RankConfig
from discovery.fills import FILLS, measure_grain
from discovery.stats import NOTHING, Estimate, mean_interval, sign_flip_p

DOSE = "dose"
"""The way that these rows of `effects` are of: no removal with a control, and no paste-in."""
LEAST_OUTSIDE = 0.1
"""Share of the view that must lie outside the cue: the fill is made of it."""


@dataclass(frozen=True)
class Dose:
    """A view with a part of a cue removed.

    Attributes:
        share: of the cue's area, in (0, 1].
        view: (h, w, 3) uint8.
    """

    share: float
    view: np.ndarray


def dose_views(
    view: np.ndarray, mask: np.ndarray, turn: int, config: AblateConfig, rng: np.random.Generator
) -> tuple[Dose, ...]:
    """Removes growing parts of a cue, each of which holds the smaller ones.

    What is laid over each part is cut from the fill of the whole cue: a fill of the part alone would continue the rest.

    Args:
        view: (h, w, 3) uint8.
        mask: (h, w) bool, the cue.
        turn: which of the fills is taken: the place of the photo in the cue's queue.
        config: shares and fills.
        rng: draws the place that the parts grow from.

    Returns:
        One per share; none where there is no cue, or too little outside it.
    """
    if not mask.any() or (~mask).mean() < LEAST_OUTSIDE:
        return ()
    filled = FILLS[config.fills[turn % len(config.fills)]](view, mask, grain=measure_grain(view, mask))
    parts = grow(mask, config.doses, rng)
    return tuple(
        Dose(share, cv2.copyTo(filled, part.view(np.uint8), view.copy()))
        for share, part in zip(config.doses, parts, strict=True)
    )


def grow(mask: np.ndarray, shares: tuple[float, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Returns (h, w) bool parts of a mask, one per share of its area: the pixels nearest to one drawn from it."""
    places = np.argwhere(mask)
    order = np.argsort(((places - rng.choice(places)) ** 2).sum(axis=1), kind="stable")
    parts = []
    for share in shares:
        part = np.zeros_like(mask)
        part[tuple(places[order[: round(share * len(places))]].T)] = True
        parts.append(part)
    return parts


@dataclass(frozen=True)
class Response:
    """How the log-odds of a class follow the share of a cue that is removed.

    Attributes:
        slope: log-odds lost when all of the cue goes, mean over photos; positive speaks for the class.
        p: sign-flip p-value; 1 for too few photos, NaN for none.
        n: photos.
    """

    slope: Estimate
    p: float
    n: int


UNDOSED = Response(NOTHING, np.nan, 0)


def measure_response(effects: pl.DataFrame, config: RankConfig, rng: np.random.Generator, share: float) -> Response:
    """Fits a line to each photo's doses and tests the slopes over photos.

    A line by least squares through the photo's own zero dose: Σ dose · loss / Σ dose².

    Args:
        effects: rows of the way `dose` of one class and cue.
        config: bootstrap resamples, smallest number of photos.
        rng: of the resampling.
        share: of the error that the last look spends.
    """
    if not len(effects):
        return UNDOSED
    dose, loss = pl.col("dose"), pl.col("logit_effect")
    slopes = effects.group_by("sample_id", maintain_order=True).agg(slope=(dose * loss).sum() / (dose * dose).sum())
    values = slopes["slope"].to_numpy()
    p = sign_flip_p(values) if len(values) >= config.min_images else 1.0
    return Response(mean_interval(values, config.bootstrap, rng, 1 - 0.05 * share), min(1.0, p / share), len(values))
