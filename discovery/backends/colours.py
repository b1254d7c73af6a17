"""One photo → the small colour maps that every computed appearance measure reads, each made once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import cv2
import numpy as np

SIDE_PX = 192
"""Longer side of the maps: small enough for milliseconds, large enough for a sticker of 7 % of the photo."""

_ANY = (0.0, 360.0)
COLOURS: dict[str, tuple[tuple[float, ...], ...]] = {
    "red": ((345, 373, 0.50, 1.0, 0.35, 1.0),),
    "orange": ((13, 43, 0.55, 1.0, 0.65, 1.0),),
    "yellow": ((43, 70, 0.40, 1.0, 0.55, 1.0),),
    "green": ((70, 165, 0.28, 1.0, 0.20, 1.0),),
    "cyan": ((165, 199, 0.35, 1.0, 0.40, 1.0),),
    "blue": ((199, 258, 0.35, 1.0, 0.25, 1.0),),
    "purple": ((258, 293, 0.30, 1.0, 0.20, 1.0), (293, 322, 0.30, 1.0, 0.20, 0.70)),
    "magenta": ((293, 326, 0.60, 1.0, 0.60, 1.0),),
    "pink": (
        (326, 345, 0.20, 1.0, 0.70, 1.0),
        (300, 326, 0.20, 0.60, 0.75, 1.0),
        (345, 375, 0.18, 0.50, 0.80, 1.0),
    ),
    "brown": ((12, 45, 0.35, 1.0, 0.20, 0.65), (-5, 12, 0.35, 0.78, 0.20, 0.66)),
    "black": ((*_ANY, 0.0, 1.0, 0.0, 0.20),),
    "white": ((*_ANY, 0.0, 0.12, 0.85, 1.0),),
    "grey": ((*_ANY, 0.0, 0.15, 0.20, 0.85),),
}
"""Colour name → boxes in HSV: hue (degrees, may leave 0–360), saturation and value (0–1), each from and to."""


@dataclass(frozen=True)
class View:
    """A photo and its shared maps at `SIDE_PX`.

    Attributes:
        rgb: (H, W, 3) uint8, the photo as given.
    """

    rgb: np.ndarray
    _made: dict[tuple, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def small(self) -> np.ndarray:
        """(h, w, 3) uint8, the photo at no more than `SIDE_PX`; a smaller one keeps its size."""
        height, width = self.rgb.shape[:2]
        scale = min(1.0, SIDE_PX / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return np.ascontiguousarray(cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA))

    @cached_property
    def lab(self) -> np.ndarray:
        """(h, w, 3) float32 CIELAB: L in [0, 100]."""
        return cv2.cvtColor(self.small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)

    @property
    def to_photo(self) -> np.ndarray:
        """(4,) factors from boxes in the small maps to pixels of the photo."""
        x, y = np.array(self.rgb.shape[1::-1]) / self.small.shape[1::-1]
        return np.array([x, y, x, y], np.float32)

    def mask(self, colour: str) -> np.ndarray:
        """(h, w) bool, the pixels that bear the name of this colour."""
        return self.once(_named) & _bit(colour) > 0

    def once(self, measure: Callable[..., Any], *args: str) -> Any:
        """Returns `measure(view, *args)`, computed on the first call only."""
        key = (measure, *args)
        if key not in self._made:
            self._made[key] = measure(self, *args)
        return self._made[key]


def bears_name(rgb: np.ndarray, colour: str) -> bool:
    """Tells whether a (3,) uint8 colour bears this name; one near a boundary may bear two."""
    return bool(_names()[tuple(int(value) >> 2 for value in rgb)] & _bit(colour))


def ramp(value: float, absent: float, sure: float) -> float:
    """Maps a measure to [0, 1]: 0 at `absent`, 1 at `sure` (which may be lower), 0.5 halfway."""
    return min(max((float(value) - absent) / (sure - absent), 0.0), 1.0)


def _named(view: View) -> np.ndarray:
    """(h, w) uint16, one bit per colour name."""
    coarse = view.small >> 2
    return _names()[coarse[..., 0], coarse[..., 1], coarse[..., 2]]


def _bit(colour: str) -> int:
    return 1 << list(COLOURS).index(colour)


@cache
def _names() -> np.ndarray:
    """(64, 64, 64) uint16 over RGB in steps of four: a table is ten times faster than comparing each pixel."""
    levels = (np.arange(64, dtype=np.float32) * 4 + 2) / 255
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    hsv = cv2.cvtColor(rgb.reshape(64, -1, 3), cv2.COLOR_RGB2HSV).reshape(rgb.shape)
    names = np.zeros(rgb.shape[:3], np.uint16)
    for colour, boxes in COLOURS.items():
        for box in boxes:
            names[_inside(hsv, *box)] |= _bit(colour)
    return names


def _inside(hsv: np.ndarray, *box: float) -> np.ndarray:
    low, high, s_low, s_high, v_low, v_high = box
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    inside = (saturation >= s_low) & (saturation <= s_high) & (value >= v_low) & (value <= v_high)
    return inside & ((hue - low) % 360 <= high - low)
