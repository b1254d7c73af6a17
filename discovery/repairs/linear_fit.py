"""Features, labels and weights → a linear layer: multinomial logistic regression with an L1 or L2 penalty."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from discovery.backends.roles import Head, softmax
from discovery.errors import BackendError

TOLERANCE = 1e-4
MAX_STEPS = 500


@dataclass(frozen=True)
class Penalty:
    """What keeps the weights small.

    Attributes:
        kind: `l1` (sum of absolute values) or `l2` (half the sum of squares).
        inverse: C, as scikit-learn means it: the loss, summed over photos, is multiplied by it.
    """

    kind: Literal["l1", "l2"]
    inverse: float


@dataclass(frozen=True)
class Scaled:
    """Standardised features: (n, d + 1) float32, the last column ones, and how to undo it."""

    x: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Scaled":
        """Standardises (n, d) features; one that never varies becomes zero."""
        features = features.astype(np.float64)
        mean, spread = features.mean(axis=0), features.std(axis=0)
        spread = np.where(spread > 1e-8, spread, 1.0)
        x = np.append((features - mean) / spread, np.ones((len(features), 1)), axis=1)
        return cls(x.astype(np.float32), mean, spread)

    def rows(self, picked: np.ndarray) -> "Scaled":
        """Returns some of the rows, standardised as all are."""
        return replace(self, x=self.x[picked])

    def head(self, weights: np.ndarray, classes: tuple[str, ...]) -> Head:
        """Returns the layer on features as they were, of (c, d + 1) weights on standardised ones."""
        coef = weights[:, :-1] / self.spread
        return Head(classes, coef, weights[:, -1] - coef @ self.mean)


def fit_linear(
    scaled: Scaled, label: np.ndarray, weight: np.ndarray, n_classes: int, penalty: Penalty, start: np.ndarray | None
) -> np.ndarray:
    """Fits the layer by accelerated proximal gradient steps with restarts (Beck & Teboulle 2009; O'Donoghue 2015).

    Args:
        scaled: features of n photos.
        label: (n,) int.
        weight: (n,) of the photos in the loss.
        n_classes: c.
        penalty: on all weights but the intercepts.
        start: (c, d + 1) weights to begin from; zeros by default.

    Returns:
        (c, d + 1) float64 weights on standardised features.

    Raises:
        BackendError: the features hold NaN or infinity.
    """
    x, share = scaled.x, (weight / weight.sum()).astype(np.float32)[:, None]
    if not np.isfinite(x).all():
        raise BackendError("the model's features hold NaN or infinity: no layer can be fitted on them; check its input")
    wanted = np.eye(n_classes, dtype=np.float32)[label]
    strength = 1 / (penalty.inverse * weight.sum())
    step = 1 / (_largest_curvature(x, share) / 2 + (strength if penalty.kind == "l2" else 0.0))
    now = ahead = np.zeros((n_classes, x.shape[1]), np.float32) if start is None else start.astype(np.float32)
    momentum = 1.0
    for _ in range(MAX_STEPS):
        slope = (share * (softmax(x @ ahead.T) - wanted)).T @ x
        new = _shrunk(ahead, slope, step, strength, penalty)
        if np.sum((ahead - new) * (new - now)) > 0:
            momentum = 1.0
        later = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        moved = np.abs(new - now).max()
        ahead = new + np.float32((momentum - 1) / later) * (new - now)
        now, momentum = new, later
        if moved <= TOLERANCE * max(np.abs(now).max(), 1e-3):
            break
    return now.astype(np.float64)


def _shrunk(ahead: np.ndarray, slope: np.ndarray, step: float, strength: float, penalty: Penalty) -> np.ndarray:
    """Takes one step; the last column, the intercepts, is not penalised."""
    if penalty.kind == "l2":
        slope[:, :-1] += strength * ahead[:, :-1]
        return (ahead - step * slope).astype(np.float32)
    new = ahead - step * slope
    new[:, :-1] = np.sign(new[:, :-1]) * np.maximum(np.abs(new[:, :-1]) - step * strength, 0)
    return new.astype(np.float32)


def _largest_curvature(x: np.ndarray, share: np.ndarray) -> float:
    """Returns the largest eigenvalue of the weighted second moments, by power iteration, a little enlarged."""
    vector = np.random.default_rng(0).normal(size=x.shape[1]).astype(np.float32)
    size = 1.0
    for _ in range(30):
        vector = x.T @ (share[:, 0] * (x @ vector))
        size = float(np.linalg.norm(vector))
        vector /= max(size, 1e-12)
    return 1.05 * size + 1e-9
