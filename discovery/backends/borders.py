"""Colour maps of one photo → its frame, or its bars on two opposite sides, if it has any."""

from dataclasses import dataclass

import numpy as np

from discovery.backends.colours import View, bears_name, ramp

MIN_FRAC, MAX_FRAC = 0.018, 0.25
"""Thickness of a frame as a share of the shorter side; a thicker one is a background."""
_SAME, _OTHER = 10.0, 14.0
"""CIELAB distances up to which a pixel has the strip's colour, and from which it has another."""
_LINE_SHARE = 0.95
_BEYOND_PX = 2


@dataclass(frozen=True)
class Border:
    """A strip of one colour along sides of a photo.

    Attributes:
        mask: (h, w) bool at the size of the view's maps.
        rgb: (3,) uint8, its colour.
        score: [0, 1].
    """

    mask: np.ndarray
    rgb: np.ndarray
    score: float

    def is_called(self, colour: str | None) -> bool:
        """Tells whether the strip bears a colour's name; None is any colour."""
        return colour is None or bears_name(self.rgb, colour)


def find_frame(view: View) -> Border | None:
    """Finds a strip of one colour along all four sides whose inner edge is a colour step nearly all around."""
    distance = _distance(view.lab, "tblr")
    if distance is None:
        return None
    runs = [_run(distance, side) for side in "tblr"]
    thinnest = min(runs)
    if not _plausible(thinnest, distance.shape):
        return None
    # Where the photo has the frame's colour, a run goes on into it; a frame is about as thick all around.
    depths = [run if run <= 2 * thinnest + 1 else thinnest for run in runs]
    steps = [_steps(distance, side, depth, depths) for side, depth in zip("tblr", depths, strict=True)]
    if min(len(step) for step in steps) == 0:
        return None
    whole, weakest = np.concatenate(steps).mean(), min(step.mean() for step in steps)
    score = min(ramp(whole, 0.5, 0.9), ramp(weakest, 0.05, 0.45))
    return _border(view, depths, score)


def find_bars(view: View) -> Border | None:
    """Finds bars of one colour on two opposite sides only: letterbox or pillarbox."""
    found = [bars for sides in ("tb", "lr") if (bars := _find_pair(view, sides)) is not None]
    return max(found, key=lambda bars: bars.score, default=None)


def _find_pair(view: View, sides: str) -> Border | None:
    distance = _distance(view.lab, sides)
    if distance is None:
        return None
    runs = {side: _run(distance, side) for side in sides}
    low, high = sorted(runs.values())
    if not _plausible(low, distance.shape) or high > 1.5 * low + 2:
        return None
    depths = [runs.get(side, 0) for side in "tblr"]
    steps = np.concatenate([_steps(distance, side, runs[side], depths) for side in sides])
    top, bottom, left, right = depths
    height, width = distance.shape
    between = distance[top : height - bottom, left : width - right]
    ends = between[:, [0, -1]] if sides == "tb" else between[[0, -1], :]
    free = ramp((ends > _OTHER).mean(), 0.2, 0.6)
    score = min(ramp(steps.mean(), 0.5, 0.9), free) if len(steps) else 0.0
    return _border(view, depths, score)


def _distance(lab: np.ndarray, sides: str) -> np.ndarray | None:
    """(h, w) CIELAB distances from the colour of the outermost lines of the sides; None if these have several."""
    lines = {"t": lab[0], "b": lab[-1], "l": lab[:, 0], "r": lab[:, -1]}
    outermost = np.concatenate([lines[side] for side in sides])
    colour = np.median(outermost, axis=0)
    if (_apart(outermost, colour) <= _SAME).mean() < _LINE_SHARE:
        return None
    return _apart(lab, colour)


def _apart(lab: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.sqrt(((lab - colour) ** 2).sum(axis=-1))


def _from_outside(distance: np.ndarray, side: str) -> np.ndarray:
    """Turns the map so that its first row lies on the side."""
    turned = distance.T if side in "lr" else distance
    return turned[::-1] if side in "br" else turned


def _run(distance: np.ndarray, side: str) -> int:
    """Counts the outermost lines that have the strip's colour all along."""
    same = (_from_outside(distance, side) <= _SAME).mean(axis=1) >= _LINE_SHARE
    return len(same) if same.all() else int(np.argmin(same))


def _steps(distance: np.ndarray, side: str, depth: int, depths: list[int]) -> np.ndarray:
    """(n,) bool along a side's inner edge: the colour just beyond it is another one."""
    lines = _from_outside(distance, side)
    first, last = (depths[2], depths[3]) if side in "tb" else (depths[0], depths[1])
    beyond = lines[depth : depth + _BEYOND_PX + 1, first : lines.shape[1] - last]
    return beyond.max(axis=0) > _OTHER if beyond.size else np.empty(0, bool)


def _plausible(depth: int, shape: tuple[int, int]) -> bool:
    side = min(shape)
    return max(2, MIN_FRAC * side) <= depth <= MAX_FRAC * side


def _border(view: View, depths: list[int], score: float) -> Border:
    top, bottom, left, right = depths
    mask = np.ones(view.small.shape[:2], bool)
    mask[top : mask.shape[0] - bottom, left : mask.shape[1] - right] = False
    return Border(mask, np.median(view.small[mask], axis=0).astype(np.uint8), score)
