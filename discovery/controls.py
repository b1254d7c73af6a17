"""Mask of a cue → a region of equal area elsewhere in the same view, to hold the removal of the cue against."""

import cv2
import numpy as np

from discovery.fills import window

PLACE_PX = 32
"""Side of the grid on which places for a control are searched."""
ALIKE_SHARE = 0.2
"""Share of the free places, those most like the cue's own, among which a control's place is drawn."""


def control_mask(
    mask: np.ndarray, forbidden: np.ndarray, rng: np.random.Generator, *, around: np.ndarray | None = None
) -> np.ndarray | None:
    """Returns a region of equal area elsewhere in the same view, or None when there is no room.

    The region is the mask moved to a random place where it touches nothing forbidden. A frame along all sides fits
    nowhere: its control is the next frame inward. For any other shape without room it is a compact patch of equal area.

    Args:
        mask: (h, w) bool, the cue.
        forbidden: (h, w) bool, what the control may not touch: the cue and its siblings.
        rng: chooses the place.
        around: (h, w) bool, the object. The control leaves it alone unless all other room is too small, and its
            distance from the object's centre is among the fifth of the free places most like the cue's own.
    """
    area = np.count_nonzero(mask)
    free = ~(forbidden | mask)
    if area == 0 or np.count_nonzero(free) < area:
        return None
    around = around if around is not None and around.any() else None
    if around is not None and np.count_nonzero(free & ~around) >= area:
        free = free & ~around
    if mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any():
        return _nearest(free, cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 3), area)
    moved = _moved(mask, ~free, around, rng)
    return moved if moved is not None else _patch(mask, free, around, rng)


def shift_between(mask: np.ndarray, control: np.ndarray) -> tuple[int, int] | None:
    """Returns by how many rows and columns a control was moved to the mask's place, or None for another shape.

    Rolling by this shift brings what the control covers under the mask.
    """
    here, there = window(mask), window(control)
    if mask[here].shape != control[there].shape or not np.array_equal(mask[here], control[there]):
        return None
    return here[0].start - there[0].start, here[1].start - there[1].start


def _moved(
    mask: np.ndarray, taken: np.ndarray, around: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray | None:
    """Returns the mask moved by whole grid cells to a free place, or None."""
    height, width = mask.shape
    step = max(1, min(height, width) // PLACE_PX)
    box = window(mask)
    shape = mask[box]
    kernel, ground = _coarse(shape, step), _coarse(taken, step)
    if kernel.shape[0] > ground.shape[0] or kernel.shape[1] > ground.shape[1]:
        return None
    hits = cv2.matchTemplate(ground, kernel, cv2.TM_CCORR)
    places = np.argwhere(hits < 0.5) * step
    places = places[(places[:, 0] + shape.shape[0] <= height) & (places[:, 1] + shape.shape[1] <= width)]
    if not len(places):
        return None
    centres = places if around is None else places + _centre(mask) - np.array([box[0].start, box[1].start])
    top, left = places[_draw(centres, mask, around, rng)]
    moved = np.zeros_like(mask)
    moved[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    return moved


def _coarse(mask: np.ndarray, step: int) -> np.ndarray:
    """Returns a mask at 1/step as float32: a cell is 1 when any of its pixels is set."""
    below, beside = (-side % step for side in mask.shape)
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 0, below, 0, beside, cv2.BORDER_CONSTANT, value=0)
    size = (padded.shape[1] // step, padded.shape[0] // step)
    share = cv2.resize(padded.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return (share > 0).astype(np.float32)


def _patch(mask: np.ndarray, free: np.ndarray, around: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Returns the free pixels, as many as the mask has, that lie nearest to a free pixel."""
    places = np.argwhere(free)
    row, column = places[_draw(places, mask, around, rng)]
    y, x = np.ogrid[: free.shape[0], : free.shape[1]]
    return _nearest(free, (y - row) ** 2 + (x - column) ** 2, np.count_nonzero(mask))


def _draw(centres: np.ndarray, mask: np.ndarray, around: np.ndarray | None, rng: np.random.Generator) -> int:
    """Draws one of the (n, 2) places, with an object one of those as far from its centre as the cue is."""
    if around is None:
        return int(rng.integers(len(centres)))
    object_centre = _centre(around)
    wanted = np.hypot(*(_centre(mask) - object_centre))
    unlike = np.abs(np.hypot(*(centres - object_centre).T) - wanted)
    n_alike = int(np.ceil(ALIKE_SHARE * len(centres)))
    return int(rng.choice(np.argpartition(unlike, n_alike - 1)[:n_alike]))


def _centre(mask: np.ndarray) -> np.ndarray:
    """Returns the (2,) row and column of a mask's centre of mass; moments are of whole numbers, so of its box alone."""
    box = window(mask)
    moments = cv2.moments(mask[box].view(np.uint8), binaryImage=True)
    area, (top, left) = moments["m00"], (side.start for side in box)
    return np.array([moments["m01"] + top * area, moments["m10"] + left * area]) / area


def _nearest(free: np.ndarray, distance: np.ndarray, area: int) -> np.ndarray:
    """Returns the `area` free pixels of least distance."""
    places = np.flatnonzero(free)
    picked = np.zeros(free.size, bool)
    picked[places[np.argpartition(distance.reshape(-1)[places], area - 1)[:area]]] = True
    return picked.reshape(free.shape)
