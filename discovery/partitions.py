"""View → a partition of it into regions: a grid, superpixels, or places of cues with a grid around them."""

from collections.abc import Sequence

import numpy as np

from discovery.images import resize

SLIC_PX = 96
"""Side at which superpixels are cut; their edges are then a few pixels coarse, which the fills' seams are too."""
LEAST_FRAC = 0.002
"""Share of the view from which what a cue leaves of a cell is a region of its own."""


def grid_cells(shape: tuple[int, int], side: int) -> np.ndarray:
    """Returns (side², h, w) bool cells of a grid, row by row; a view with fewer pixels than cells has fewer cells."""
    height, width = shape
    rows = np.arange(height) * min(side, height) // height
    columns = np.arange(width) * min(side, width) // width
    return _masks(rows[:, None] * side + columns[None, :])


def superpixels(view: np.ndarray, number: int) -> np.ndarray:
    """Returns (about `number`, h, w) bool superpixels: SLIC with adaptive compactness (Achanta et al. 2012).

    `slic_zero` keeps about that number on any texture; a fixed compactness may return a single one.
    """
    from skimage.segmentation import slic

    height, width = view.shape[:2]
    small = resize(view, min(SLIC_PX, height), min(SLIC_PX, width))
    labels = slic(small, number, slic_zero=True, start_label=0, channel_axis=-1)
    rows = np.arange(height) * labels.shape[0] // height
    columns = np.arange(width) * labels.shape[1] // width
    return _masks(labels[rows[:, None], columns[None, :]])


def around_cues(cues: Sequence[np.ndarray], shape: tuple[int, int], side: int) -> np.ndarray:
    """Returns the places of cues, smallest first, and what they leave of the cells of a grid, as (m, h, w) bool.

    Where cues overlap, the smaller one has the pixels: a region is removed whole, and a frame or a background would
    otherwise take all that lies in it along.

    Args:
        cues: (h, w) bool each.
        shape: (h, w) of the view.
        side: cells per side of the grid.
    """
    free, parts = np.ones(shape, bool), []
    for mask in [*sorted(cues, key=np.count_nonzero), *grid_cells(shape, side)]:
        part = mask & free
        if part.mean() >= LEAST_FRAC:
            parts.append(part)
            free &= ~part
    # Crumbs too small to be regions go to the last one, so that the partition covers the view.
    parts[-1] |= free
    return np.stack(parts)


def _masks(labels: np.ndarray) -> np.ndarray:
    return labels[None] == np.unique(labels)[:, None, None]
