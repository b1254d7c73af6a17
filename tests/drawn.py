"""Masks that several tests draw: a square and a frame."""

import numpy as np


def square(shape=(64, 64), at=(8, 8), side=16) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[at[0] : at[0] + side, at[1] : at[1] + side] = True
    return mask


def frame(side=64, width=5) -> np.ndarray:
    mask = np.ones((side, side), bool)
    mask[width:-width, width:-width] = False
    return mask
