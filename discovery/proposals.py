"""Images → class-agnostic regions: overlapping windows and superpixels, which need no phrase."""

from collections.abc import Sequence

import numpy as np
from skimage.segmentation import slic

from discovery.images import resize
from discovery.regions import Regions, encode_rle

SLIC_PX = 96
"""Side at which superpixels are cut: they are regions to look at, not outlines, and cost 1/5 of those at 224."""

AGNOSTIC = -1


def propose_regions(images: Sequence[np.ndarray], *, grid: int, superpixels: int) -> Regions:
    """Cuts every image into overlapping windows and superpixels.

    Args:
        images: (H, W, 3) uint8 RGB, sizes may differ.
        grid: windows per side; neighbours overlap by a third.
        superpixels: about how many SLIC superpixels per image; `slic_zero` keeps that number on any texture.

    Returns:
        Regions with phrase -1 and score 1; a superpixel has its mask and the box around it.
    """
    rows = []
    shares = _windows(grid)
    for index, image in enumerate(images):
        size = np.array(image.shape[1::-1] * 2, np.float32)
        rows += [(index, AGNOSTIC, share * size, 1.0, None) for share in shares]
        if superpixels > 1 and min(image.shape[:2]) >= 8:
            small = resize(image, SLIC_PX, SLIC_PX)
            labels = slic(small, superpixels, slic_zero=True, start_label=0, channel_axis=-1)
            rows += [(index, AGNOSTIC, box * size / SLIC_PX, 1.0, rle) for box, rle in _segments(labels)]
    return Regions.build(rows)


def _windows(grid: int) -> np.ndarray:
    """Returns (grid², 4) boxes as shares of width and height."""
    if grid == 0:
        return np.empty((0, 4), np.float32)
    side = 1.5 / (grid + 0.5)
    starts = np.linspace(0, 1 - side, grid) if grid > 1 else np.array([0.0])
    side = side if grid > 1 else 1.0
    y, x = (part.reshape(-1) for part in np.meshgrid(starts, starts, indexing="ij"))
    return np.stack([x, y, x + side, y + side], axis=1).astype(np.float32)


def _segments(labels: np.ndarray) -> list[tuple[np.ndarray, bytes]]:
    found = []
    for label in np.unique(labels):
        mask = labels == label
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
        found.append((box, encode_rle(mask)))
    return found
