"""The model under audit: what it is asked for, and the linear layer that many of them end in and a repair replaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from discovery.backends.views import Sight
from discovery.errors import BackendError

SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Head:
    """Class names in output order, and for a probe or a repaired model its last layer.

    Attributes:
        classes: c names.
        coef: (c, d) float64, or None when the model has a head of its own.
        intercept: (c,) float64, or None.
        gate: (c, d + 1) float64, weights and intercept of what may not speak for a class (`repairs.spufix`): where it
            is positive it is taken off the class's logit. None for a linear layer.
    """

    classes: tuple[str, ...]
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None
    gate: np.ndarray | None = None

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns (n, c) float64 logits of (n, d) features."""
        x = features.astype(np.float64)
        logits = x @ self.coef.T + self.intercept
        return logits if self.gate is None else logits - np.maximum(0, x @ self.gate[:, :-1].T + self.gate[:, -1])


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
    """A model whose last layer is linear: its probabilities are the softmax of `Head.logits` of its features.

    A repaired layer is a `Head` in the table `heads`; `load_classifier` puts it in the place of the model's own.
    """

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Returns (n, d) float32, what the last layer sees of views."""

    def linear(self) -> Head:
        """Returns the last layer."""


@runtime_checkable
class Mapped(Featured, Protocol):
    """A model whose last layer reads the mean of a spatial map."""

    def dense(self, views: np.ndarray) -> np.ndarray:
        """Returns (n, d, r, s) float32 of (n, h, w, 3) uint8 views: the features before their mean over the map."""


class Reheaded:
    """A model with another last layer in place of its own."""

    def __init__(self, model: Featured, head: Head) -> None:
        self.model = model
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


def check_probs(probs: object, n_images: int, classes: Sequence[str]) -> np.ndarray:
    """Returns a model's answer as (n, c) float64 when it is one.

    Raises:
        BackendError: wrong shape, NaN, negative, or rows that do not sum to one.
    """
    try:
        array = np.asarray(probs, np.float64)
    except (TypeError, ValueError) as error:
        raise BackendError(f"the model must return an array of numbers, got {type(probs).__name__}") from error
    if array.shape != (n_images, len(classes)):
        raise BackendError(
            f"the model must return shape ({n_images}, {len(classes)}), got {array.shape}; "
            f"name its classes in output order: model.classes"
        )
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(axis=1)).sum())
        raise BackendError(f"the model returned NaN or infinity for {bad} of {n_images} images; check its input range")
    if (array < 0).any() or np.abs(array.sum(axis=1) - 1).max(initial=0) > SUM_TOLERANCE:
        raise BackendError(
            f"rows of the model's answer must be probabilities that sum to 1, got "
            f"{array.sum(axis=1).min():.3g} to {array.sum(axis=1).max():.3g}; apply softmax or model.outputs = 'logits'"
        )
    return array
