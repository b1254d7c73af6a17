"""One photo and the regions of its cues → the view of the model, and masks of the cues in it, drawn when asked for."""

from collections.abc import Callable

import cv2
import numpy as np

from discovery.regions import draw_mask
from discovery.schema import WHOLE_IMAGE_KINDS

BOX = ["x0", "y0", "x1", "y1"]
RIM_FRAC = 3 / 224
"""Width of the rim around a cue that is removed with it, as a share of the view's shorter side."""
COMPUTED = ("appearance", "text")
"""Detectors whose regions have sharp edges."""
COVERED = 0.25
"""Share of the smaller of two masks inside the other from which a sharp cue goes with another one."""
SAME = 0.7
"""Intersection over union from which two coarse masks are one place."""


class Seen:
    """One photo as the model sees it, and where its cues are: drawn when they are asked for.

    Args:
        view: (h, w, 3) uint8.
        frame: (4,) xyxy part of the photo that the view shows.
        size_px: (height, width) of the photo.
        cues: cue → its regions.
        object_xyxy: (4,) pixels in the photo, or None.
    """

    def __init__(
        self,
        view: np.ndarray,
        frame: np.ndarray,
        size_px: tuple[int, int],
        cues: dict[str, list[dict]],
        object_xyxy: np.ndarray | None,
    ) -> None:
        self.view, self._frame, self._size, self._cues = view, frame, size_px, cues
        self.around = None if object_xyxy is None else self._draw({"mask_rle": None}, object_xyxy)
        self._masks: dict[str, np.ndarray] = {}

    def __contains__(self, cue_id: str) -> bool:
        return cue_id in self._cues

    def mask(self, cue_id: str) -> np.ndarray:
        """Returns (h, w) bool, the union of a cue's regions."""
        if cue_id not in self._masks:
            drawn = np.logical_or.reduce([self._draw(region) for region in self._cues[cue_id]])
            self._masks[cue_id] = _with_rim(drawn, self.around)
        return self._masks[cue_id]

    def clearest(self, cue_id: str, most: float = 0.0) -> np.ndarray:
        """Returns (h, w) bool, a cue's region with the highest score, and the next ones that fit into a share.

        Args:
            cue_id: the cue.
            most: share of the view that all may fill together; the first region is there whatever its size.
        """
        return clearest_of(self._cues[cue_id], lambda region: _with_rim(self._draw(region), self.around), most)

    def is_sharp(self, cue_id: str) -> bool:
        """Tells whether a cue was computed, so that its place is exact."""
        return all(region["detector"] in COMPUTED for region in self._cues[cue_id])

    def covered_by(self, mask: np.ndarray | None, cue_id: str, kinds: dict[str, str]) -> list[str]:
        """Returns the other cues of this photo that go with a cue when it is removed, or cut out by this mask."""
        others = (other for other in self._cues if other != cue_id)
        return [other for other in others if self._goes_with(mask, other, kinds[other])]

    def _goes_with(self, own: np.ndarray | None, other: str, kind: str) -> bool:
        if own is None or kind in WHOLE_IMAGE_KINDS:
            return True
        its = self.mask(other)
        both = float((own & its).sum())
        # Coarse windows overlap by accident: one coarse cue goes with another only where they are one place.
        if self.is_sharp(other):
            return both >= COVERED * max(1.0, float(min(own.sum(), its.sum())))
        return both >= SAME * max(1.0, float((own | its).sum()))

    def _draw(self, region: dict, xyxy: np.ndarray | None = None) -> np.ndarray:
        xyxy = box_of(region) if xyxy is None else xyxy
        return draw_mask(xyxy, region["mask_rle"], self._size, self.view.shape[:2], field=self._frame)


def clearest_of(regions: list[dict], draw: Callable[[dict], np.ndarray], most: float = 0.0) -> np.ndarray:
    """Unites the regions of highest score, as many as fit into a share of the picture; one at least.

    Args:
        regions: rows of `regions`.
        draw: row → (h, w) bool.
        most: the share.
    """
    clearest, *others = sorted(regions, key=lambda region: -(region["score"] or 0.0))
    united = draw(clearest)
    for region in others if most else ():
        wider = united | draw(region)
        if wider.mean() <= most:
            united = wider
    return united


def box_of(region: dict) -> np.ndarray:
    """Returns the (4,) xyxy pixels of a row of `regions`; NaN for the whole photo."""
    return np.array([np.nan if region[name] is None else region[name] for name in BOX], np.float32)


def _with_rim(mask: np.ndarray, around: np.ndarray | None) -> np.ndarray:
    """Widens a mask, but not into the object.

    What borders on a cue is mixed with it (smoothing, JPEG): a rim left behind would still show its shape. A rim that
    damaged the object, which no control does, would pass for use of the cue.
    """
    width = max(1, round(RIM_FRAC * min(mask.shape)))
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * width + 1,) * 2, np.uint8)).astype(bool)
    return wide if around is None else mask | (wide & ~around)
