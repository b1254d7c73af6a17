"""Phrases → coarse regions with no text-image model: ConSE over an ImageNet network and a text encoder.

ConSE (Norouzi et al. 2014, eq. 4): an image's place in text space is the mean of its ten likeliest class names'
embeddings, weighted by their probabilities; DeViSE reads labels off by cosine. A phrase's cosine is standardised over
the 1,000 class names themselves, so that phrases near everything ("bench") do not win everywhere.

It is coarse. It knows what ImageNet's classes imply, and it looks through nine overlapping windows of a 7×7 feature
map: it says that a photo shows "grass field" and roughly where, never a box to trust.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from discovery.backends.detector import Phrase
from discovery.backends.efficientnet import INPUT_PX, imagenet_classes, load_efficientnet_lite0
from discovery.backends.text import load_text
from discovery.config import ComputeConfig, DetectConfig
from discovery.images import resize
from discovery.regions import Regions

TOP_CLASSES = 10
TEMPLATE = "a photo of {}"
KINDS = frozenset({"object", "background", "texture"})
WINDOW, STEP = 3, 2  # cells of the 7×7 map


class ConseSpace:
    """Pooled EfficientNet-Lite0 features → scores of phrases.

    Args:
        compute: where it runs.
    """

    def __init__(self, compute: ComputeConfig) -> None:
        self._net = load_efficientnet_lite0(compute)
        self._text = load_text("minilm", compute)
        names = torch.from_numpy(self._text.encode(list(imagenet_classes())))
        self._classes = names.to(self._net.device)

    @torch.inference_mode()
    def scores(self, pooled: torch.Tensor, phrases: Sequence[str]) -> torch.Tensor:
        """Returns (..., p) scores: standard deviations above a phrase's mean over the ImageNet class names.

        Args:
            pooled: (..., 1280) features, not normalised.
            phrases: p phrases.
        """
        wanted = torch.from_numpy(self._text.encode([TEMPLATE.format(p) for p in phrases])).to(pooled.device)
        reference = self._classes @ wanted.T
        probs, best = self._net.logits(pooled).softmax(-1).topk(TOP_CLASSES, dim=-1)
        places = torch.nn.functional.normalize((probs.unsqueeze(-1) * self._classes[best]).sum(-2), dim=-1)
        return (places @ wanted.T - reference.mean(0)) / reference.std(0)


class ConseDetector:
    """Coarse open-set detector for objects, backgrounds and textures.

    Args:
        config: `conse_floor`, below which a window is not written.
        compute: where it runs and in what batches.
    """

    def __init__(self, config: DetectConfig, compute: ComputeConfig) -> None:
        self._floor, self._batch = config.conse_floor, compute.batch_size
        self._net = load_efficientnet_lite0(compute)
        self._space = ConseSpace(compute)

    def sees(self, phrase: Phrase) -> bool:
        """Tells whether the phrase has a place and is not computed by another detector."""
        return phrase.kind in KINDS

    def tag(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Returns (n_images, n_texts) float32 image-level scores, in standard deviations."""
        if not len(images) or not len(texts):
            return np.zeros((len(images), len(texts)), np.float32)
        pooled = torch.cat([dense.mean(dim=(2, 3)) for dense in self._dense(images)])
        return self._space.scores(pooled, texts).cpu().numpy()

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Phrase]) -> Regions:
        """Returns the windows whose score passes the floor; see `Detector.detect`."""
        if not len(images) or not len(phrases):
            return Regions.build([])
        texts = [phrase.text for phrase in phrases]
        pooled = torch.cat([_windows(dense) for dense in self._dense(images)])
        scores = self._space.scores(pooled, texts).cpu().numpy()
        image, window, phrase = np.nonzero(scores >= self._floor)
        sizes = np.array([shown.shape[1::-1] * 2 for shown in images], np.float32)
        return Regions(
            image=image,
            phrase=phrase,
            xyxy=_window_boxes()[window] * sizes[image],
            score=scores[image, window, phrase].astype(np.float32),
        )

    def _dense(self, images: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        for start in range(0, len(images), self._batch):
            chunk = images[start : start + self._batch]
            yield self._net.dense(np.stack([resize(image, INPUT_PX, INPUT_PX) for image in chunk]))


def _windows(dense: torch.Tensor) -> torch.Tensor:
    """Returns (n, 9, d) means over the windows of (n, d, 7, 7) features."""
    return torch.nn.functional.avg_pool2d(dense, WINDOW, STEP).flatten(2).transpose(1, 2)


def _window_boxes() -> np.ndarray:
    """Returns (9, 4) boxes as shares of width and height, in the order of `_windows`."""
    cells = INPUT_PX // 32
    starts = np.arange(0, cells - WINDOW + 1, STEP) / cells
    y, x = (grid.reshape(-1) for grid in np.meshgrid(starts, starts, indexing="ij"))
    return np.stack([x, y, x + WINDOW / cells, y + WINDOW / cells], axis=1).astype(np.float32)
