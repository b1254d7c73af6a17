"""A view whose cue is filled × a model that reads a spatial map → how much of the cue lies where the class is."""

import cv2
import numpy as np

from discovery.backends.roles import Classifier, Mapped
from discovery.errors import ConfigError

ATTRIBUTION = "attribution"


def check_mapped(classifier: Classifier) -> None:
    """Tells whether a model has maps.

    Raises:
        ConfigError: it has none.
    """
    if not isinstance(classifier, Mapped):
        raise ConfigError(
            "ablate.object = 'attribution' wants a model whose last layer reads the mean of a spatial map, a probe on "
            f"efficientnet_lite0, got a {type(classifier).__name__}; set it to 'detected' or 'given'"
        )


def class_region(activation: np.ndarray, size_px: tuple[int, int], level: float) -> np.ndarray:
    """Returns (h, w) bool: where a class activation map (Zhou et al. 2016) reaches a level between its least and most.

    Args:
        activation: (r, c) of one class.
        size_px: (h, w) of the view.
        level: 0 is all of the view, 1 the peak alone.
    """
    full = cv2.resize(activation.astype(np.float32), size_px[::-1])
    low, high = full.min(), full.max()
    return full >= low + level * (high - low)


def overlap_without(classifier: Mapped, class_index: int, removed: np.ndarray, mask: np.ndarray, level: float) -> float:
    """Returns the share of a cue that lies where the model sees the class once the cue is gone.

    With the cue in view a map tells nothing: it is high on whatever the model reads, a shortcut as well as the object.

    Args:
        classifier: the model under audit.
        class_index: of the class.
        removed: (h, w, 3) uint8, the view with the cue filled.
        mask: (h, w) bool, where it was.
        level: see `class_region`.
    """
    coef = classifier.linear().coef[class_index]
    activation = np.tensordot(coef, classifier.dense(removed[None])[0], 1)
    return float(class_region(activation, mask.shape, level)[mask].mean())
