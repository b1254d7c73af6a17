"""A few pictures of a thing → boxes of its like: OWLv2 asked with an image, or likeness in the space of any encoder.

For logos, rulers and stamps that no words describe. `detect.exemplars` is a folder with one folder of pictures per
phrase. OWLv2 compares its patches with the class embedding of the most object-like patch of each picture (its own
image-guided mode). An encoder compares windows of three sizes with each picture, by cosine; its windows are coarse.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from discovery.backends.checkpoint import read_choice
from discovery.backends.detector import Phrase
from discovery.backends.open_set import Batches, to_regions
from discovery.config import ComputeConfig, DetectConfig
from discovery.errors import DataError
from discovery.images import SUFFIXES, read_image
from discovery.regions import Regions

ENCODER = "efficientnet_lite0"
MAX_PIXELS = 50_000_000
WINDOW_SHARES = (0.5, 0.33, 0.2)
"""Sides of the windows, as shares of the photo's sides; they step by half of themselves."""
SURROUND = 3
"""A picture is embedded in the middle of a plain ground this many times its size, as a thing stands in a photo."""


class ExemplarDetector:
    """Finds what looks like the pictures in a folder.

    Args:
        model: `owlv2:FOLDER`, or an encoder's setting; None for the offline encoder.
        config: `exemplars`, the floor, and how much is done at once.
        compute: where it runs.

    Raises:
        DataError: the folder is missing or holds no picture.
    """

    def __init__(self, model: str | None, config: DetectConfig, compute: ComputeConfig) -> None:
        self._examples = read_exemplars(config.exemplars)
        choice = read_choice(model or ENCODER)
        self._finder = (
            _Owl(choice.checkpoint, compute) if choice.name == "owlv2" else _Windows(model or ENCODER, compute)
        )
        self._config, self._known = config, {}
        self._batches = Batches(min(config.images_per_pass, compute.batch_size))

    def sees(self, phrase: Phrase) -> bool:
        """Tells whether there are pictures of the phrase."""
        return phrase.text.lower() in self._examples

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Phrase]) -> Regions:
        """See `Detector.detect`. A phrase scores by the likest of its pictures."""
        texts = [phrase.text.lower() for phrase in phrases]
        if not len(images) or not texts:
            return Regions.build([])
        for text in set(texts) - self._known.keys():
            self._known[text] = self._finder.embed([read_image(f, max_pixels=MAX_PIXELS) for f in self._examples[text]])
        return self._batches.run(images, lambda chunk: self._find(chunk, texts))

    def _find(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> Regions:
        scores, boxes = self._finder.compare(images, torch.cat([self._known[text] for text in texts]))
        parts = scores.split([len(self._known[text]) for text in texts], dim=-1)
        best = torch.stack([part.amax(-1) for part in parts], dim=-1)
        return to_regions(best, boxes, [image.shape[:2] for image in images], self._config)


def read_exemplars(folder: str | None) -> dict[str, list[Path]]:
    """Returns phrase → the files of its pictures, from folders named as the phrases (in lower case).

    Raises:
        DataError: the folder is missing, or a phrase in it has no picture.
    """
    if not folder or not Path(folder).is_dir():
        raise DataError(f"no folder of exemplars at {folder}; set detect.exemplars to one with <phrase>/*.png in it")
    found = {
        place.name.lower(): sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
        for place in sorted(Path(folder).iterdir())
        if place.is_dir()
    }
    if not found or not all(found.values()):
        empty = next((name for name, files in found.items() if not files), folder)
        raise DataError(f"no pictures in {empty}; put some into {folder}/<phrase>/ ({', '.join(SUFFIXES[:4])}, …)")
    return found


class _Owl:
    """OWLv2's image-guided mode."""

    def __init__(self, checkpoint: str | None, compute: ComputeConfig) -> None:
        from discovery.backends.detector import HUB_IDS
        from discovery.backends.detector_owl import OwlModel

        self._model = OwlModel("owlv2", checkpoint or HUB_IDS["owlv2"], compute)

    def embed(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.cat([self._model.embed_examples([picture]) for picture in pictures])

    def compare(self, images: Sequence[np.ndarray], queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (n, boxes, q) scores and (n, boxes, 4) pixels."""
        features = self._model.features(images)
        return self._model.scores(features, queries), self._model.boxes(features, images)


class _Windows:
    """Cosine between windows of a photo and the pictures, in the space of an encoder."""

    def __init__(self, setting: str, compute: ComputeConfig) -> None:
        from discovery.backends.encoder import load_encoder

        self._encoder = load_encoder(setting, compute)

    def embed(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        grounds, boxes = zip(*(_on_ground(picture) for picture in pictures), strict=True)
        return torch.from_numpy(self._encoder.embed(grounds, [box[None] for box in boxes]).embedding)

    def compare(self, images: Sequence[np.ndarray], queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (n, windows, q) scores and (n, windows, 4) pixels."""
        shares = _windows()
        boxes = [shares * np.array(image.shape[1::-1] * 2, np.float32) for image in images]
        found = torch.from_numpy(self._encoder.embed(images, boxes).embedding)
        scores = (found @ queries.T).clamp(0, 1)
        return scores.view(len(images), len(shares), -1), torch.from_numpy(np.stack(boxes))


def _on_ground(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture in the middle of a ground of its mean colour, and its (4,) box there."""
    height, width = picture.shape[:2]
    ground = np.empty((SURROUND * height, SURROUND * width, 3), np.uint8)
    ground[:] = picture.mean(axis=(0, 1)).astype(np.uint8)
    y, x = (SURROUND - 1) * height // 2, (SURROUND - 1) * width // 2
    ground[y : y + height, x : x + width] = picture
    return ground, np.array([x, y, x + width, y + height], np.float32)


def _windows() -> np.ndarray:
    """Returns (m, 4) float32 boxes as shares of width and height."""
    boxes = []
    for side in WINDOW_SHARES:
        starts = np.linspace(0, 1 - side, 1 + int(np.ceil((1 - side) / (side / 2) - 1e-6)))
        boxes += [(x, y, x + side, y + side) for y in starts for x in starts]
    return np.array(boxes, np.float32)
