"""A slice of images and the images it is held against → how much more often it shows each cue."""

import numpy as np


def enrichment(present: np.ndarray, weight: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Share of the slice that shows each cue, minus the same share of the images outside it.

    Only images of one class are compared with each other: against all images the class's own object comes first.

    Args:
        present: (q, n) bool.
        weight: (n,) in [0, 1], how much each image belongs to the slice.
        among: (n,) bool images that are compared.

    Returns:
        (q,) float64 in [-1, 1]; 0 where the slice or what is left of the class is empty.
    """
    inside = np.where(among, weight, 0.0)
    outside = np.where(among, 1.0 - weight, 0.0)
    if min(inside.sum(), outside.sum()) < 1e-9:
        return np.zeros(len(present))
    return present @ inside / inside.sum() - present @ outside / outside.sum()
