"""A view and its regions → their order by what the model's answer rests on, and the smallest set that flips it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from discovery.config import ExplainConfig
from discovery.masked_views import MaskedViews
from discovery.stats import logit


@dataclass(frozen=True)
class Flip:
    """A set of regions without which the model says something else, whatever they are filled with.

    Attributes:
        regions: their numbers; none of them can be left out.
        probs: (c,) of the view without them, under the first fill.
    """

    regions: tuple[int, ...]
    probs: np.ndarray


class Worth:
    """How much a set of regions is worth: F(S) of LIMA, from 0 to 1, for one class.

    F(S) is the weighted mean of p(class | only S), 1 − p(class | without S), confidence (1 − the entropy of the answer
    to S alone, over its largest value) and diversity (the mean over S of the distance to the nearest other region of
    it). A term of weight 0 costs no forward pass (Chen et al. 2024; confidence by entropy and distance by colour and
    place are ours).

    Args:
        views: the view and its regions, once per fill.
        class_index: the class.
        config: the weights.
    """

    def __init__(self, views: Sequence[MaskedViews], class_index: int, config: ExplainConfig) -> None:
        self.views, self._class = views, class_index
        self._weights = np.array([config.insertion, config.deletion, config.confidence, config.diversity])
        self._distance = _distances(views[0]) if config.diversity else None

    def __call__(self, sets: Sequence[Iterable[int]], fill: int = 0) -> np.ndarray:
        """Returns (n,) worths of n sets under one of the fills."""
        sets = [tuple(part) for part in sets]
        terms = np.zeros((4, len(sets)))
        insertion, deletion, confidence, diversity = self._weights
        if insertion or confidence:
            kept = self.views[fill].only(sets)
            terms[0] = kept[:, self._class]
            entropy = -(kept * np.log(np.maximum(kept, 1e-12))).sum(axis=1)
            terms[2] = 1 - entropy / np.log(max(2, kept.shape[1]))
        if deletion:
            terms[1] = 1 - self.views[fill].without(sets)[:, self._class]
        if diversity:
            terms[3] = [self._spread(part) for part in sets]
        return self._weights @ terms / self._weights.sum()

    def _spread(self, regions: tuple[int, ...]) -> float:
        if len(regions) < 2:
            return 0.0
        among = self._distance[np.ix_(regions, regions)] + 2 * np.eye(len(regions))
        return float(among.min(axis=1).mean())


@dataclass(frozen=True)
class Schedule:
    """How carefully regions are searched for; places are shares of all regions.

    Attributes:
        shortlists: (place, regions asked at every step before it).
        whole: places at which every region that is left is asked.
        steps_per_fill: steps after which the next fill is asked; 0 stays with the first.
    """

    shortlists: tuple[tuple[float, int], ...]
    whole: tuple[float, ...] = ()
    steps_per_fill: int = 0

    def number(self, n_chosen: int, n_regions: int) -> int:
        """Returns how many regions a step asks."""
        if n_chosen in [round(place * n_regions) for place in self.whole]:
            return n_regions
        return next(number for place, number in self.shortlists if n_chosen < place * n_regions)


FRUGAL = Schedule(((1 / 5, 3), (5 / 6, 2), (1.0, 1)), whole=(1 / 8, 2 / 7), steps_per_fill=2)
NAIVE = Schedule(((1.0, 1_000_000),))
"""Every region that is left, at every step, under one fill: m (m + 1) / 2 forward passes. The yardstick."""


def order_regions(worth: Worth, schedule: Schedule = FRUGAL) -> list[int]:
    """Orders regions, those first that are worth most together: greedy, but few candidates are asked again.

    Every region is asked once alone. From then on a step asks a shortlist only: those whose gain, when last asked, was
    largest (lazy greedy, Minoux 1978; a guess here, because the worth is not submodular). Gains are in log-odds, where
    a saturated model still shows them. What was asked in another company says less and less, so all are asked again at
    two places. Fills take turns: what only one of them shows is that fill's doing, and leads a search astray.
    """
    left = list(range(len(worth.views[0])))
    nothing, *singles = logit(worth([(), *((region,) for region in left)]))
    gains, now, fill = np.array(singles) - nothing, float(nothing), 0
    chosen: list[int] = []
    while left:
        steps = schedule.steps_per_fill
        turn = len(chosen) // steps % len(worth.views) if steps else 0
        if turn != fill:
            fill, now = turn, float(logit(worth([chosen], turn))[0])
        left.sort(key=lambda region: -gains[region])
        asked = left[: schedule.number(len(chosen), len(gains))]
        gains[asked] = logit(worth([[*chosen, region] for region in asked], fill)) - now
        best = max(asked, key=lambda region: gains[region])
        left.remove(best)
        chosen.append(best)
        now += gains[best]
    return chosen


def find_flip(views: Sequence[MaskedViews], class_index: int, order: Sequence[int]) -> Flip | None:
    """Returns a small set of regions without which, under every fill, the class is not the answer.

    The shortest beginning of the order that flips the answer, less what it does not need: regions are put back, those
    first whose return leaves the class least probable, as many at once as leave the answer flipped, until none can be.
    That no smaller set exists is not shown.

    Returns:
        The set, or None when the answer stands however many regions of the order are gone.
    """
    chosen = _flipping_start(views, class_index, order)
    if chosen is None:
        return None
    while len(chosen) > 1:
        highest = _highest(views, class_index, [[other for other in chosen if other != region] for region in chosen])
        needless = [chosen[i] for i in np.argsort(highest, kind="stable") if np.isfinite(highest[i])]
        if not needless:
            break
        fewer = [[region for region in chosen if region not in needless[:n]] for n in range(1, len(needless) + 1)]
        fewer = [part for part in fewer if part]
        stays = np.isfinite(_highest(views, class_index, fewer))
        chosen = fewer[int(np.flatnonzero(stays)[-1])]
    return Flip(tuple(chosen), views[0].without([chosen])[0])


def _highest(views: Sequence[MaskedViews], class_index: int, removed: list[list[int]]) -> np.ndarray:
    """Returns (n,) the highest probability of the class under any fill; infinity where some fill leaves it the answer.

    A set that the first fill leaves unflipped is not asked under the others.
    """
    highest = np.zeros(len(removed))
    for own in views:
        rows = np.flatnonzero(np.isfinite(highest))
        if len(rows):
            probs = own.without([removed[row] for row in rows])
            flipped = probs.argmax(axis=1) != class_index
            highest[rows] = np.where(flipped, np.maximum(highest[rows], probs[:, class_index]), np.inf)
    return highest


def _flipping_start(views: Sequence[MaskedViews], class_index: int, order: Sequence[int]) -> list[int] | None:
    step = 8
    for start in range(0, len(order), step):
        starts = [list(order[:end]) for end in range(start + 1, min(start + step, len(order)) + 1)]
        flipped = np.isfinite(_highest(views, class_index, starts))
        if flipped.any():
            return starts[int(flipped.argmax())]
    return None


def _distances(views: MaskedViews) -> np.ndarray:
    """Returns (m, m) distances of regions in mean colour and place, from 0 to 1."""
    height, width = views.view.shape[:2]
    y, x = np.mgrid[:height, :width]
    scale = np.array([255, 255, 255, height, width]) * np.sqrt(5)
    about = np.dstack([views.view, y, x]) / scale
    means = np.array([about[mask].mean(axis=0) for mask in views.masks])
    return np.linalg.norm(means[:, None] - means[None], axis=2)
