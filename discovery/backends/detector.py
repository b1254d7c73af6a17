"""Images and phrases → regions: open-set detection, one backend per way of seeing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from discovery.config import ComputeConfig, DetectConfig
from discovery.errors import ConfigError
from discovery.regions import Regions


@dataclass(frozen=True)
class Phrase:
    """What is looked for: free text and its kind (`schema.Kind`)."""

    text: str
    kind: str


class Detector(Protocol):
    """Finds phrases in images."""

    def sees(self, phrase: Phrase) -> bool:
        """Tells whether this detector can find a phrase of this kind at all."""

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Phrase]) -> Regions:
        """Finds phrases in a batch of images.

        Args:
            images: (H, W, 3) uint8 RGB, sizes may differ.
            phrases: those that `sees` accepted.

        Returns:
            Regions whose `image` and `phrase` index the arguments; boxes in the pixels of the given images.
        """


def _load_conse(config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.conse import ConseDetector

    return ConseDetector(config, compute)


def _load_appearance(config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.appearance import AppearanceDetector

    return AppearanceDetector()


def _load_text(config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.ocr import TextDetector

    return TextDetector(config, compute)


DETECTORS: dict[str, Callable[[DetectConfig, ComputeConfig], Detector]] = {
    "appearance": _load_appearance,
    "text": _load_text,
    "conse": _load_conse,
}
"""In the order in which the router asks them: the computed ones first, the coarse one last."""


def load_detector(name: str, config: DetectConfig, compute: ComputeConfig) -> Detector:
    """Loads a detector by name.

    Raises:
        ConfigError: there is no such detector.
    """
    if name not in DETECTORS:
        raise ConfigError(f"unknown detector {name!r}; choose from {', '.join(DETECTORS)}")
    return DETECTORS[name](config, compute)
