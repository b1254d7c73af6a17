"""Features and presences → the last layer blind to the directions that tell whether a cue is there: no training.

LEACE (Belrose et al. 2023, theorem 4.2): the least change of features after which no linear layer can tell the cue,
x ↦ x − W⁺ U Uᵀ W (x − μ) with W = Σ_xx^(−1/2) and U a basis of the columns of W Σ_xz. Both covariances are taken within
classes, so that the class itself is kept. The map is linear, so it is folded into the layer.
"""

import numpy as np

from discovery.backends.roles import Head
from discovery.errors import DataError
from discovery.repairs.task import Repaired, Task

RANK_TOLERANCE = 1e-3
"""A direction that tells less than this share of what the plainest one tells is none of its own."""


def repair(task: Task) -> Repaired:
    """Projects the layer; see `repairs.task.Repair`."""
    features, own = task.features().astype(np.float64), task.head()
    erased, mean = eraser(features, task.shown.astype(np.float64), task.label)
    if not erased.shape[1]:
        raise DataError(
            "no direction to erase: each chosen cue is shown by all or by none of the photos of every class that are "
            "fitted on; add photos that break the tie"
        )
    out, into = erased.transpose(2, 0, 1)
    moved = own.coef - (own.coef @ out) @ into.T
    intercept = own.intercept + (own.coef @ out) @ (into.T @ mean)
    return Repaired(Head(own.classes, moved, intercept), facts={"erased_directions": int(out.shape[1])})


def eraser(features: np.ndarray, shown: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the oblique projection to be subtracted, as (d, r, 2) outer factors, and the (d,) mean.

    Args:
        features: (n, d).
        shown: (n, k) of k cues.
        label: (n,) int.
    """
    from sklearn.covariance import ledoit_wolf

    x, z = _within(features, label), _within(shown, label)
    covariance = ledoit_wolf(x, assume_centered=True)[0]
    value, vector = np.linalg.eigh(covariance)
    root = np.sqrt(np.maximum(value, value.max() * 1e-10))
    cross = (vector / root) @ (vector.T @ (x.T @ z / len(x)))
    left, size, _ = np.linalg.svd(cross, full_matrices=False)
    basis = left[:, size > max(RANK_TOLERANCE * size.max(initial=0), 1e-12)]
    out = (vector * root) @ (vector.T @ basis)
    into = (vector / root) @ (vector.T @ basis)
    return np.stack([out, into], axis=2), features.mean(axis=0)


def _within(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Subtracts from each row the mean of its class."""
    centred = values.copy()
    for y in np.unique(label):
        centred[label == y] -= values[label == y].mean(axis=0)
    return centred
