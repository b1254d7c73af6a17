"""View → the view with its colour, lighting or sharpness changed as a whole, and another change of equal weight.

Views are (h, w, 3) uint8. Sizes of changes are root mean squares of what is left of them after clipping to [0, 255].
"""

from collections.abc import Callable

import cv2
import numpy as np

BLUR_SIGMAS_PX = (0.0, 1.0, 2.0, 3.0)
LEAST_CHANGE = 0.5
"""Size, in levels of 255, below which a change is none."""
_TRIES, _CLOSE = 8, 0.02
BRIGHTNESS_SD, BALANCE_SD = 34.0, 0.58
"""How much photos differ in mean grey (levels) and in white balance (log of red over blue), of 60 BAR photos."""


def recolour(view: np.ndarray) -> np.ndarray:
    """Shifts the mean chroma to grey."""
    return _mapped(view, 1.0, -_chroma(view))


def relight(view: np.ndarray) -> np.ndarray:
    """Brings brightness and contrast to the middle."""
    mean, spread = _lighting(view)
    gain = float(np.clip(55.0 / spread, 0.5, 2.5))
    return _mapped(view, gain, np.full(3, 118.0 - gain * mean))


def sharpen(view: np.ndarray) -> np.ndarray:
    """Adds one and a half times what a Gaussian of two pixels takes away (unsharp mask)."""
    return cv2.addWeighted(view, 2.5, cv2.GaussianBlur(view, (0, 0), 2.0), -1.5, 0)


def tint(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Shifts the mean chroma of one view to another's."""
    return _mapped(target, 1.0, _chroma(source) - _chroma(target))


def light(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Brings the mean and the spread of one view's grey to another's."""
    (mean, spread), (wanted_mean, wanted_spread) = _lighting(target), _lighting(source)
    gain = float(np.clip(wanted_spread / spread, 0.2, 5.0))
    return _mapped(target, gain, np.full(3, wanted_mean - gain * mean))


def soften(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Blurs one view by that Gaussian of `BLUR_SIGMAS_PX` which brings its sharpness nearest to another's.

    Sharpness is the logarithm of the variance of the Laplacian, both at the target's size. A sigma of zero is no blur:
    nothing is blurred for a source at least as sharp.
    """
    if source.shape != target.shape:
        source = cv2.resize(source, (target.shape[1], target.shape[0]), interpolation=cv2.INTER_AREA)
    grey, wanted = _grey(target), _sharpness(_grey(source))
    far = [abs(_sharpness(_blurred(grey, sigma)) - wanted) for sigma in BLUR_SIGMAS_PX]
    return _blurred(target, BLUR_SIGMAS_PX[int(np.argmin(far))])


REMOVALS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "colour": ("recolour", recolour),
    "lighting": ("relight", relight),
    "quality": ("sharpen", sharpen),
}
PASTES: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "colour": ("tint", tint),
    "lighting": ("light", light),
    "quality": ("soften", soften),
}


def shift_as_much(view: np.ndarray, changed: np.ndarray, kind: str) -> np.ndarray | None:
    """Changes a view by as much as it was changed, in a direction that the cue's kind does not name.

    A lighting cue is held against a change of white balance, red against blue, that is as rare among photos: a shift of
    chroma as large in levels would be many times as rare, and cost the model more than the cue. Any other is held
    against a shift of brightness towards the middle, as large in levels. Clipping takes a part of a shift away, so its
    size is corrected until what is left is as large, to half a level or a fiftieth.

    Returns:
        (h, w, 3) uint8, or None when the change is smaller than `LEAST_CHANGE`.
    """
    wanted = _size(view, changed)
    if wanted < LEAST_CHANGE:
        return None
    if kind == "lighting":
        return _balanced(view, wanted / BRIGHTNESS_SD * BALANCE_SD)
    direction = np.ones(3) if np.mean(cv2.mean(view)[:3]) < 128 else -np.ones(3)
    amount = wanted
    for _ in range(_TRIES):
        shifted = _mapped(view, 1.0, amount * direction)
        left = _size(view, shifted)
        if abs(left - wanted) <= max(0.5, _CLOSE * wanted):
            break
        amount = min(amount * wanted / max(left, 1e-6), 400.0)
    return shifted


def _balanced(view: np.ndarray, log_ratio: float) -> np.ndarray:
    """Raises the logarithm of red over blue and leaves the mean brightness."""
    mean = np.array(cv2.mean(view)[:3])
    gains = np.exp(log_ratio * np.array([0.5, 0.0, -0.5]))
    gains *= mean.sum() / max(float(gains @ mean), 1e-6)
    levels = np.arange(256)[:, None] * gains
    return cv2.LUT(view, np.clip(levels + 0.5, 0, 255).astype(np.uint8).reshape(1, 256, 3))


def _mapped(view: np.ndarray, gain: float, offset: np.ndarray) -> np.ndarray:
    """Returns gain · view + offset per channel; a table of 256 levels does it at a fraction of the cost."""
    levels = np.arange(256)[:, None] * gain + offset
    return cv2.LUT(view, np.clip(levels + 0.5, 0, 255).astype(np.uint8).reshape(1, 256, 3))


def _chroma(view: np.ndarray) -> np.ndarray:
    """Returns the (3,) means of the channels less their mean."""
    mean = np.array(cv2.mean(view)[:3])
    return mean - mean.mean()


def _lighting(view: np.ndarray) -> tuple[float, float]:
    """Returns the mean and the standard deviation of grey, the latter at least 1."""
    mean, spread = cv2.meanStdDev(_grey(view))
    return float(mean.item()), max(float(spread.item()), 1.0)


def _grey(view: np.ndarray) -> np.ndarray:
    return cv2.transform(view, np.full((1, 3), 1 / 3))


def _sharpness(grey: np.ndarray) -> float:
    _, spread = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
    return float(np.log(spread.item() ** 2 + 1.0))


def _blurred(image: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma_px) if sigma_px else image


def _size(view: np.ndarray, changed: np.ndarray) -> float:
    return float(cv2.norm(view, changed, cv2.NORM_L2) / np.sqrt(view.size))
