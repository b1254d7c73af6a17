"""View + mask → view with the mask filled in from what is outside it, so that nothing of the cue is left.

Views are (h, w, 3) uint8, masks (h, w) bool. Every fill changes the mask and nothing else, reads nothing inside it, and
paints with the grain of its photo. They run beside forward passes of a few milliseconds, so each works in the bounding
box of the mask wherever that gives the same pixels.
"""

from functools import cache

import cv2
import numpy as np

FILL_LEVELS_PX = (1, 2, 4, 7, 14, 28)
"""Sides of the grids at which the surroundings are averaged, coarse to fine; 28 is an eighth of a 224-pixel view."""
INPAINT_RADIUS_PX = 2
INPAINT_BUDGET_PX = 2_500
"""Pixels that are inpainted at most; a larger mask is inpainted at a whole fraction of its size."""
GRAIN_SAMPLES = 2_000
NOISE_PX = 512
"""Side of the field of noise that grain is cut from; a larger mask repeats it."""


def fill_mean(view: np.ndarray, mask: np.ndarray, *, grain: np.ndarray | None = None) -> np.ndarray:
    """Fills a region with the mean colour of what is outside it."""
    rows, columns = box = window(mask)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    one = _to_uint8(_mean(view, mask, box)).reshape(1, 1, 3)
    colour = cv2.resize(one, size, interpolation=cv2.INTER_NEAREST) if all(size) else one
    return _paint(view, mask, box, colour, grain)


def fill_blur(view: np.ndarray, mask: np.ndarray, *, grain: np.ndarray | None = None) -> np.ndarray:
    """Fills a region from its surroundings, blurred: a push–pull pyramid of normalised averages (Gortler et al. 1996).

    What is inside the region has no part in it, so a red sticker leaves no red haze.

    Args:
        view: (h, w, 3) uint8.
        mask: (h, w) bool.
        grain: of `measure_grain`; None measures it outside the mask.
    """
    outside, box = (~mask).view(np.uint8), window(mask)
    side = FILL_LEVELS_PX[-1]
    total = _shrink(cv2.copyTo(view, outside), side, side)
    weight = _shrink(outside, side, side)
    if not weight.any():
        total, weight = total + _mean(view, mask, box), weight + 1
    colour = _enlarge(_to_uint8(_pull(np.dstack([total, weight]))), mask.shape, box)
    return _paint(view, mask, box, colour, grain)


def fill_inpaint(view: np.ndarray, mask: np.ndarray, *, grain: np.ndarray | None = None) -> np.ndarray:
    """Fills a region by continuing the lines and colours that end at it: Navier–Stokes (Bertalmio et al. 2001).

    Not fast marching (Telea 2004): OpenCV's fills a flat grey with up to 17 levels too bright. Pixels are filled from
    the edge inward and look no further than the radius, so it runs on the mask's bounding box and a margin, reduced
    until at most about `INPAINT_BUDGET_PX` are unknown. A reduced pixel at least half of which lies outside the mask is
    known: it is the mean of that part alone. Where none is, the fill is the blurred one.

    Args:
        view: (h, w, 3) uint8.
        mask: (h, w) bool.
        grain: of `measure_grain`; None measures it outside the mask.
    """
    step = max(1, int(np.ceil(np.sqrt(np.count_nonzero(mask) / INPAINT_BUDGET_PX))))
    around = window(mask, (INPAINT_RADIUS_PX + 2) * step)
    near, outside = view[around], (~mask[around]).view(np.uint8)
    height, width = outside.shape
    small = (max(1, height // step), max(1, width // step))
    weight = _shrink(outside, *small)
    unknown = (weight < 0.5).view(np.uint8)
    if unknown.all():
        return fill_blur(view, mask, grain=grain)
    known = _shrink(cv2.copyTo(near, outside), *small) / np.maximum(weight, 1e-6)[..., None]
    found = cv2.inpaint(_to_uint8(known), unknown, INPAINT_RADIUS_PX, cv2.INPAINT_NS)
    colour = cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
    rows, columns = box = window(mask)
    top, left = rows.start - around[0].start, columns.start - around[1].start
    colour = colour[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]
    return _paint(view, mask, box, colour, grain)


FILLS = {"blur": fill_blur, "mean": fill_mean, "inpaint": fill_inpaint}


def measure_grain(view: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Measures the grain of a view: the spread of noise in each channel, not of edges.

    It is the robust spread (median absolute deviation) of differences between pixels two apart, on a subsample.

    Args:
        view: (h, w, 3) uint8.
        mask: (h, w) bool, what is left out; None measures the whole view.

    Returns:
        (3,) float32 standard deviations.
    """
    step = max(1, int(np.sqrt(view[..., 0].size / GRAIN_SAMPLES)))
    right = np.ascontiguousarray(view[::step, 2::step])
    n_columns = right.shape[1]
    left = np.ascontiguousarray(view[::step, ::step][:, :n_columns])
    picked = None if mask is None else ~(mask[::step, ::step][:, :n_columns] | mask[::step, 2::step])
    n_picked = right[..., 0].size if picked is None else np.count_nonzero(picked)
    if not n_picked:
        return np.zeros(3, np.float32)
    spread, inside = cv2.absdiff(left, right), None if picked is None else picked.view(np.uint8)
    # Counts of the 256 values give the median sooner than sorting does.
    counts = np.stack([cv2.calcHist([spread], [channel], inside, [256], [0, 256]).reshape(-1) for channel in range(3)])
    median = (np.cumsum(counts, axis=1) <= n_picked // 2).sum(axis=1)
    return median.astype(np.float32) / np.float32(0.6745 * np.sqrt(2))


def window(mask: np.ndarray, margin_px: int = 0) -> tuple[slice, slice]:
    """Returns the rows and columns of a mask's bounding box, with a margin as far as the view goes."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    rows = slice(max(0, top - margin_px), min(mask.shape[0], top + height + margin_px))
    return rows, slice(max(0, left - margin_px), min(mask.shape[1], left + width + margin_px))


def _mean(view: np.ndarray, mask: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """Returns the (3,) float32 mean colour outside a mask, or of the whole view where nothing is outside."""
    total, n = np.array(cv2.sumElems(view)[:3]), mask.size
    inside = mask[box].view(np.uint8)
    n_inside = np.count_nonzero(inside)
    if not 0 < n_inside < n:
        return (total / n).astype(np.float32)
    # All but the inside: both sums are of whole numbers, and the inside is in a small part of the view.
    return ((total - np.array(cv2.sumElems(cv2.copyTo(view[box], inside))[:3])) / (n - n_inside)).astype(np.float32)


def _enlarge(cells: np.ndarray, shape: tuple[int, int], box: tuple[slice, slice]) -> np.ndarray:
    """Returns the part of (height, width, 3) enlarged cells that lies in a box.

    Where a cell is a whole number of pixels, no more than that part is made, of the cells around it.
    """
    (height, width), side = shape, len(cells)
    rows, columns = box
    if height % side or width % side:
        return cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)[box]
    tall, wide = height // side, width // side
    top, left = max(0, rows.start // tall - 1), max(0, columns.start // wide - 1)
    near = cells[top : -(-rows.stop // tall) + 1, left : -(-columns.stop // wide) + 1]
    size = (near.shape[1] * wide, near.shape[0] * tall)
    large = cv2.resize(np.ascontiguousarray(near), size, interpolation=cv2.INTER_LINEAR)
    top, left = rows.start - top * tall, columns.start - left * wide
    return large[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]


def _paint(
    view: np.ndarray, mask: np.ndarray, box: tuple[slice, slice], colour: np.ndarray, grain: np.ndarray | None
) -> np.ndarray:
    """Paints the colours of a mask's bounding box into the mask, with grain.

    A patch smoother than its photo is a mark of its own, which models react to. The noise is counted from the corner of
    the box: a removal and a control of the same shape get the same.
    """
    filled = view.copy()
    inside = mask[box].view(np.uint8)
    if not inside.size:
        return filled
    noise = _noise(*inside.shape, measure_grain(view, mask) if grain is None else grain)
    painted = cv2.add(np.ascontiguousarray(colour), noise, dtype=cv2.CV_8U)
    cv2.copyTo(painted, inside, filled[box])
    return filled


def _noise(height: int, width: int, grain: np.ndarray) -> np.ndarray:
    """Returns a (height, width, 3) float32 field of noise with the given spread per channel."""
    field = _noise_field()
    if height > NOISE_PX or width > NOISE_PX:
        field = np.tile(field, (-(-height // NOISE_PX), -(-width // NOISE_PX)))
    # Rows of 3·width numbers: numpy multiplies a last axis of three many times more slowly.
    scaled = field[:height, : 3 * width] * np.tile(grain.astype(np.float32), width)
    return scaled.reshape(height, width, 3)


@cache
def _noise_field() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((NOISE_PX, 3 * NOISE_PX), np.float32)


def _pull(cells: np.ndarray) -> np.ndarray:
    """Returns the (28, 28, 3) colours of cells: their own average, or where little is known that of coarser cells.

    Args:
        cells: (28, 28, 4) float32, the known colours times their share of the cell, and that share.
    """
    colour = np.zeros((1, 1, 3), np.float32)
    for side in FILL_LEVELS_PX:
        level = cv2.resize(cells, (side, side), interpolation=cv2.INTER_AREA).reshape(side, side, 4)
        coarse = cv2.resize(colour, (side, side), interpolation=cv2.INTER_LINEAR).reshape(side, side, 3)
        trust = np.float32(0.02 if side > 1 else 0.0)
        colour = (level[..., :3] + trust * coarse) / np.maximum(level[..., 3:] + trust, 1e-6)
    return colour


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the means of an image's cells; in float32, since a cell of which little is known has a small mean."""
    return cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
