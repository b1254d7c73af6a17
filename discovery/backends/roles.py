"""The model under audit: what it is asked for, and the linear layer that many of them end in and a repair replaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from discovery.backends.views import Sight


@dataclass(frozen=True)
class Head:
    """Class names in output order, and for a probe or a repaired model its linear layer.

    Attributes:
        classes: c names.
        coef: (c, d) float64, or None when the model has a head of its own.
        intercept: (c,) float64, or None.
    """

    classes: tuple[str, ...]
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns (n, c) float64 logits of (n, d) features."""
        return features.astype(np.float64) @ self.coef.T + self.intercept


class Classifier(Sight, Protocol):
    """The model under audit.

    An image is first turned into a *view*, the pixels that the model sees: interventions work on views, so that each
    variant costs one forward pass and no second decoding or resizing.
    """

    classes: tuple[str, ...]

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Returns (n, c) float64 probabilities of views."""


@runtime_checkable
class Featured(Classifier, Protocol):
    """A model whose last layer is linear: its probabilities are the softmax of features × coef + intercept.

    A repaired layer is a `Head` in the table `heads`; `load_classifier` puts it in the place of the model's own.
    """

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Returns (n, d) float32, what the last layer sees of views."""

    def linear(self) -> Head:
        """Returns the last layer."""


class Reheaded:
    """A model with another last layer in place of its own."""

    def __init__(self, model: Featured, head: Head) -> None:
        self.classes, self.view, self.field, self.features = head.classes, model.view, model.field, model.features
        self._head = head

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        return softmax(self._head.logits(self.features(views)))

    def linear(self) -> Head:
        """See `Featured.linear`."""
        return self._head


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns (n, c) probabilities of (n, c) logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
