"""Colour maps of one photo → measures of the photo as a whole: colour cast, lighting, sharpness, noise."""

import cv2
import numpy as np

from discovery.backends.colours import View, ramp

TINT_HUES = {
    "red": (12, 42),
    "orange": (45, 80),
    "yellow": (86, 112),
    "green": (112, 172),
    "cyan": (172, 225),
    "blue": (225, 302),
    "purple": (303, 321),
    "magenta": (323, 337),
    "pink": (340, 370),
}
"""Colour name → hue angles of its casts in CIELAB, degrees; may pass 360."""


def tint(view: View, colour: str) -> float:
    """Scores a cast: nearly all pixels, the greys too, lean towards one hue, and that hue has this name.

    The lean is the 15th percentile over pixels of (a, b) along the direction of the median (a, b).
    """
    lean, hue, _ = view.once(_cast)
    low, high = TINT_HUES[colour]
    away = max(abs((hue - (low + high) / 2 + 180) % 360 - 180) - (high - low) / 2, 0.0)
    return min(ramp(lean, 4, 16), ramp(away, 8, 0))


def greyscale(view: View) -> float:
    """Scores a photo without colour: even its most colourful pixels are grey."""
    return ramp(np.percentile(view.once(_chroma), 98), 9, 3)


def sepia(view: View) -> float:
    """Scores a brown monochrome: a cast between orange and yellow and hardly any colour beside it."""
    lean, hue, across = view.once(_cast)
    away = max(abs(hue - 72) - 20, 0.0)
    return min(ramp(lean, 1, 7), ramp(away, 14, 0), ramp(across, 5, 2))


def vivid(view: View) -> float:
    """Scores strong colours in most of the photo by its mean CIELAB chroma."""
    return ramp(view.once(_chroma).mean(), 25, 65)


def share(view: View, colour: str) -> float:
    """Scores a photo that is mostly of one colour: 0.5 when half of its pixels are."""
    return ramp(view.mask(colour).mean(), 0.25, 0.75)


def backdrop(view: View, colour: str) -> float:
    """Scores a background of one colour: 0.5 when 65 % of the photo's outer zone are."""
    mask = view.mask(colour)
    return ramp(mask[_ring(mask.shape)].mean(), 0.4, 0.9)


def dark(view: View) -> float:
    """Scores a dark photo by its mean CIELAB lightness."""
    return ramp(view.lab[..., 0].mean(), 38, 18)


def bright(view: View) -> float:
    """Scores a bright photo by its mean CIELAB lightness."""
    return ramp(view.lab[..., 0].mean(), 65, 85)


def low_contrast(view: View) -> float:
    """Scores a flat photo by how far apart its 2nd and 98th percentile of lightness are."""
    return ramp(_range(view), 60, 30)


def high_contrast(view: View) -> float:
    """Scores a hard photo: both deep shadows and burnt lights fill a large part of it."""
    light = view.lab[..., 0]
    return ramp(min((light < 15).mean(), (light > 85).mean()), 0.05, 0.25)


def backlit(view: View) -> float:
    """Scores a dark middle before bright surroundings."""
    light = view.lab[..., 0]
    ring = _ring(light.shape)
    height, width = light.shape
    middle = light[height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None]
    return min(
        ramp(np.median(light[ring]) - np.median(middle), 20, 50),
        ramp(np.median(middle), 45, 25),
    )


def blurry(view: View) -> float:
    """Scores a soft photo by the width of its strongest edges, as a share of the maps' size.

    A step of height c blurred by a Gaussian of width s has the slope c / (s √(2π)), whatever its contrast.
    """
    width_px = view.once(_edge_width)
    return ramp(width_px, 1.3, 1.9)


def noisy(view: View) -> float:
    """Scores grain by the noise that even the smoother blocks of the photo have (grey levels of 255)."""
    return ramp(view.once(_noise), 4, 14)


def _chroma(view: View) -> np.ndarray:
    return np.hypot(view.lab[..., 1], view.lab[..., 2])


def _cast(view: View) -> tuple[float, float, float]:
    """Returns the lean, its hue angle in degrees, and the 80th percentile of the distance across it."""
    ab = view.lab[..., 1:].reshape(-1, 2)
    middle = np.median(ab, axis=0)
    along = middle / max(float(np.hypot(*middle)), 1e-6)
    lean = float(np.percentile(ab @ along, 15))
    across = float(np.percentile(np.abs(ab @ np.array([-along[1], along[0]])), 80))
    return lean, float(np.degrees(np.arctan2(along[1], along[0]))) % 360, across


def _ring(shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, the outer zone: 15 % of each side."""
    ring = np.ones(shape, bool)
    y, x = (max(1, round(0.15 * side)) for side in shape)
    ring[y:-y, x:-x] = False
    return ring


def _range(view: View) -> float:
    low, high = np.percentile(view.lab[..., 0], [2, 98])
    return float(high - low)


def _edge_width(view: View) -> float:
    """Median width (standard deviation, map pixels) of the steepest 2 % of the photo."""
    grey = cv2.cvtColor(view.small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)) / 8
    window = np.ones((9, 9), np.uint8)
    height = cv2.dilate(grey, window) - cv2.erode(grey, window)
    steep = (slope >= np.percentile(slope, 98)) & (height > 8)
    if not steep.any():
        return 0.0
    return float(np.median(height[steep] / (slope[steep] * np.sqrt(2 * np.pi))))


def _noise(view: View) -> float:
    """Noise (standard deviation, grey levels) of the photo at its own size, 25th percentile over blocks.

    Immerkær, "Fast noise variance estimation", CVIU 1996: a filter that is blind to slopes.
    """
    grey = cv2.cvtColor(view.rgb[:512, :512], cv2.COLOR_RGB2GRAY).astype(np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    residual = np.abs(cv2.filter2D(grey, cv2.CV_32F, kernel)) * np.sqrt(np.pi / 2) / 6
    blocks = cv2.resize(
        residual, (max(1, grey.shape[1] // 16), max(1, grey.shape[0] // 16)), interpolation=cv2.INTER_AREA
    )
    return float(np.percentile(blocks, 25))
