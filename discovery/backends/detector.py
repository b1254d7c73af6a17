"""Images and phrases → regions: open-set detection, one backend per way of seeing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from discovery.backends.checkpoint import Choice, read_choice
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


def _load_conse(choice: Choice, config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.conse import ConseDetector

    return ConseDetector(config, compute)


def _load_appearance(choice: Choice, config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.appearance import AppearanceDetector

    return AppearanceDetector()


def _load_text(choice: Choice, config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.ocr import TextDetector

    return TextDetector(config, compute)


def _load_owl(choice: Choice, config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.detector_owl import OwlDetector

    return OwlDetector(choice.name, choice.checkpoint or HUB_IDS[choice.name], config, compute)


def _load_grounding(choice: Choice, config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.detector_grounding import GroundingDetector

    return GroundingDetector(choice.name, choice.checkpoint or HUB_IDS[choice.name], config, compute)


def _load_yolo(choice: Choice, config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.detector_yolo import YoloDetector

    return YoloDetector(choice.name, choice.checkpoint or HUB_IDS[choice.name], config, compute)


def _load_exemplar(choice: Choice, config: DetectConfig, compute: ComputeConfig) -> Detector:
    from discovery.backends.detector_exemplar import ExemplarDetector

    return ExemplarDetector(choice.checkpoint, config, compute)


DETECTORS: dict[str, Callable[[Choice, DetectConfig, ComputeConfig], Detector]] = {
    "appearance": _load_appearance,
    "text": _load_text,
    "conse": _load_conse,
    "owlv2": _load_owl,
    "owlvit": _load_owl,
    "grounding_dino": _load_grounding,
    "mm_grounding_dino": _load_grounding,
    "yolo_world": _load_yolo,
    "yoloe": _load_yolo,
    "exemplar": _load_exemplar,
}
"""The first two are asked before `detect.box_detector`, which is one of the others."""
OFFLINE = ("appearance", "text", "conse")
"""Detectors that read no checkpoint."""
HUB_IDS = {
    "owlv2": "google/owlv2-base-patch16-ensemble",
    "owlvit": "google/owlvit-base-patch32",
    "grounding_dino": "IDEA-Research/grounding-dino-tiny",
    "mm_grounding_dino": "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg",
    "yolo_world": "yolov8s-worldv2.pt",
    "yoloe": "yoloe-11s-seg.pt",
}
"""What is read where the setting names no checkpoint."""
OPEN_SET = frozenset(HUB_IDS)
"""Detectors that draw a box around what any phrase names, also the name of a class."""


def load_detector(setting: str, config: DetectConfig, compute: ComputeConfig) -> Detector:
    """Loads a detector by its setting: `name`, or `name:checkpoint` for those that read one.

    Raises:
        ConfigError: there is no such detector, or it reads no checkpoint.
        BackendError: its checkpoint or its package is not here.
    """
    choice = read_choice(setting)
    if choice.name not in DETECTORS:
        raise ConfigError(f"unknown detector {choice.name!r}; choose from {', '.join(DETECTORS)}")
    if choice.checkpoint and choice.name in OFFLINE:
        raise ConfigError(
            f"detector {choice.name!r} reads no checkpoint, got {choice.checkpoint!r}; write its name alone"
        )
    return DETECTORS[choice.name](choice, config, compute)
