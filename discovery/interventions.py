"""View + mask (or whole-image cue) → view with the cue removed, and its matched control.

A removal and its control change the same number of pixels in the same way; they differ in whether the cue is what
changes. Views are (h, w, 3) uint8, masks (h, w) bool.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from discovery.schema import WHOLE_IMAGE_KINDS

FILL_LEVELS_PX = (1, 2, 4, 7, 14, 28)
"""Sides of the grids at which the surroundings are averaged, coarse to fine; 28 is an eighth of a 224-pixel view."""
PLACE_PX = 32
"""Side of the grid on which places for a control are searched."""


@dataclass(frozen=True)
class Pair:
    """A removal and its control.

    Attributes:
        name: the intervention, as the table `effects` names it.
        removed: the view without the cue.
        control: the view with as much else changed in the same way.
    """

    name: str
    removed: np.ndarray
    control: np.ndarray


def fill_mean(view: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills a region with the mean colour of what is outside it."""
    outside = (~mask).astype(np.uint8)
    mean = cv2.mean(view, mask=outside if not mask.all() else None)[:3]
    return _paint(view, mask, np.broadcast_to(np.array(mean, np.float32), view.shape))


def fill_blur(view: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills a region from its surroundings, blurred: a push–pull pyramid of normalised averages (Gortler et al. 1996).

    What is inside the region has no part in it, so a red sticker leaves no red haze.
    """
    keep = (~mask).astype(np.float32)
    side = FILL_LEVELS_PX[-1]
    outside = cv2.copyTo(view, (~mask).astype(np.uint8)).astype(np.float32)
    total = cv2.resize(outside, (side, side), interpolation=cv2.INTER_AREA).reshape(side, side, 3)
    weight = cv2.resize(keep, (side, side), interpolation=cv2.INTER_AREA).reshape(side, side, 1)
    if not weight.any():
        total, weight = total + view.reshape(-1, 3).mean(axis=0), weight + 1
    colour = _pull(total, weight)
    height, width = mask.shape
    return _paint(view, mask, cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR))


def _paint(view: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Paints (h, w, 3) colours into a region, with the grain of what is outside it.

    A patch smoother than its photo is a mark of its own, which models react to. Grain is the robust spread
    (median absolute deviation) of differences between pixels two apart: film grain and sensor noise, not edges.
    """
    left, right = view[::5, :-2:5].astype(np.int16), view[::5, 2::5].astype(np.int16)
    spread = np.abs(left - right[:, : left.shape[1]])[~mask[::5, :-2:5]]
    grain = np.median(spread, axis=0) / (0.6745 * np.sqrt(2)) if len(spread) else np.zeros(3)
    filled = view.copy()
    noise = _noise(mask.shape)[mask] * grain.astype(np.float32)
    filled[mask] = np.clip(colour[mask] + noise + 0.5, 0, 255).astype(np.uint8)
    return filled


@lru_cache(maxsize=8)
def _noise(shape: tuple[int, int]) -> np.ndarray:
    """Returns one (h, w, 3) standard normal field per size: the same for a removal and its control."""
    return np.random.default_rng(0).standard_normal((*shape, 3), np.float32)


def _pull(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the (28, 28, 3) colours of cells: their own average, or where little is known that of coarser cells."""
    colour = np.zeros((1, 1, 3), np.float32)
    for side in FILL_LEVELS_PX:
        step = FILL_LEVELS_PX[-1] // side
        cells = total.reshape(side, step, side, step, 3).mean(axis=(1, 3))
        known = weight.reshape(side, step, side, step, 1).mean(axis=(1, 3))
        coarse = cv2.resize(colour, (side, side), interpolation=cv2.INTER_LINEAR).reshape(side, side, 3)
        trust = 0.02 if side > 1 else 0.0
        colour = (cells + trust * coarse) / np.maximum(known + trust, 1e-6)
    return colour


FILLS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"blur": fill_blur, "mean": fill_mean}


def control_mask(mask: np.ndarray, forbidden: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Returns a region of equal area elsewhere in the same view, or None when there is no room.

    The region is the mask moved to a random place where it touches nothing forbidden. A frame along all sides fits
    nowhere: its control is the next frame inward. For any other shape without room it is a compact patch of equal area.

    Args:
        mask: the cue.
        forbidden: what the control may not touch: the cue and its siblings.
        rng: chooses the place.
    """
    area = int(mask.sum())
    free = ~(forbidden | mask)
    if area == 0 or free.sum() < area:
        return None
    if mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any():
        return _nearest(free, cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3), area)
    moved = _moved(mask, ~free, rng)
    return moved if moved is not None else _patch(free, area, rng)


def whole_image_pair(view: np.ndarray, kind: str) -> Pair | None:
    """Removes a cue that has no place, against a change of equal size in another direction.

    colour: the mean chroma is shifted to grey; control: an equal shift of brightness.
    lighting: brightness and contrast are brought to the middle; control: an equal shift of chroma.
    quality: sharpened (unsharp mask); control: an equal shift of brightness.

    Returns:
        The pair, or None when the removal changes nothing.
    """
    pixels = view.astype(np.float32)
    removed = {"colour": _recolour, "lighting": _relight, "quality": _sharpen}[kind](pixels)
    size = float(np.sqrt(((removed - pixels) ** 2).mean()))
    if size < 0.5:
        return None
    control = _shift_chroma(pixels, size) if kind == "lighting" else _shift_brightness(pixels, size)
    name = {"colour": "recolour", "lighting": "relight", "quality": "sharpen"}[kind]
    return Pair(name, _to_uint8(removed), _to_uint8(control))


def swap_pair(view: np.ndarray, mask: np.ndarray, without: np.ndarray, with_cue: np.ndarray) -> Pair:
    """Replaces a region by the same place of another photo: one without the cue, and as control one that has it.

    For a cue too large to have an equal-area control. Both donors come from other classes, so what differs is the cue.

    Args:
        view: the photo.
        mask: the cue in it.
        without: (h, w, 3) uint8 donor that lacks the cue.
        with_cue: (h, w, 3) uint8 donor that shows it.
    """
    shape = (view.shape[1], view.shape[0])
    lacking, showing = (cv2.resize(donor, shape, interpolation=cv2.INTER_AREA) for donor in (without, with_cue))
    return Pair("swap", np.where(mask[..., None], lacking, view), np.where(mask[..., None], showing, view))


def show_removed(image: np.ndarray, mask: np.ndarray, kind: str, intervention: str) -> np.ndarray:
    """Returns an image with a cue removed, as the report shows it.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        kind: of the cue.
        intervention: as in the table `effects`; a swap is shown as a blur, since its donors differ per photo.
    """
    if kind in WHOLE_IMAGE_KINDS and intervention not in FILLS:
        pair = whole_image_pair(image, kind)
        return image if pair is None else pair.removed
    return FILLS.get(intervention, fill_blur)(image, mask)


def _moved(mask: np.ndarray, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Returns the mask moved by whole grid cells to a random free place, or None."""
    height, width = mask.shape
    step = max(1, min(height, width) // PLACE_PX)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    shape = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    kernel, ground = _coarse(shape, step), _coarse(taken, step)
    if kernel.shape[0] > ground.shape[0] or kernel.shape[1] > ground.shape[1]:
        return None
    hits = cv2.matchTemplate(ground, kernel, cv2.TM_CCORR)
    places = np.argwhere(hits < 0.5)
    places = places[(places[:, 0] * step + shape.shape[0] <= height) & (places[:, 1] * step + shape.shape[1] <= width)]
    if not len(places):
        return None
    top, left = places[rng.integers(len(places))] * step
    moved = np.zeros_like(mask)
    moved[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    return moved


def _coarse(mask: np.ndarray, step: int) -> np.ndarray:
    """Returns a mask at 1/step as float32: a cell is 1 when any of its pixels is set."""
    height, width = (-(-side // step) * step for side in mask.shape)
    padded = np.zeros((height, width), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded.reshape(height // step, step, width // step, step).any(axis=(1, 3)).astype(np.float32)


def _patch(free: np.ndarray, area: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the `area` free pixels that lie nearest to a random free pixel."""
    rows, columns = np.nonzero(free)
    seed = rng.integers(len(rows))
    y, x = np.ogrid[: free.shape[0], : free.shape[1]]
    return _nearest(free, (y - rows[seed]) ** 2 + (x - columns[seed]) ** 2, area)


def _nearest(free: np.ndarray, distance: np.ndarray, area: int) -> np.ndarray:
    """Returns the `area` free pixels of least distance."""
    places = np.flatnonzero(free)
    picked = np.zeros(free.size, bool)
    picked[places[np.argpartition(distance.reshape(-1)[places], area - 1)[:area]]] = True
    return picked.reshape(free.shape)


def _recolour(pixels: np.ndarray) -> np.ndarray:
    mean = pixels.mean(axis=(0, 1))
    return pixels - (mean - mean.mean())


def _relight(pixels: np.ndarray) -> np.ndarray:
    grey = pixels.mean(axis=2)
    gain = np.clip(55.0 / max(float(grey.std()), 1.0), 0.5, 2.5)
    return (pixels - grey.mean()) * gain + 118.0


def _sharpen(pixels: np.ndarray) -> np.ndarray:
    return pixels + 1.5 * (pixels - cv2.GaussianBlur(pixels, (0, 0), 2.0))


def _shift_brightness(pixels: np.ndarray, size: float) -> np.ndarray:
    return pixels + (size if pixels.mean() < 128 else -size)


def _shift_chroma(pixels: np.ndarray, size: float) -> np.ndarray:
    """Adds a red–blue shift of root mean square `size`; the mean of the channels stays."""
    return pixels + np.array([1.0, 0.0, -1.0], np.float32) * size * np.sqrt(1.5)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
