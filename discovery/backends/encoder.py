"""Images and boxes → unit-norm embeddings: dense features once per image, pooled per region."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from discovery.config import ComputeConfig
from discovery.errors import ConfigError


@dataclass(frozen=True)
class Embedded:
    """Embeddings of regions.

    Attributes:
        embedding: (n, d) float32, unit norm.
        norm: (n,) float32, the length that was divided out.
    """

    embedding: np.ndarray
    norm: np.ndarray


class Encoder(Protocol):
    """Embeds regions of images, and says where an embedding lies among phrases."""

    width: int
    """d, the length of an embedding."""

    def embed(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Embedded:
        """Embeds the regions of a batch with one forward pass per image.

        Args:
            images: (H, W, 3) uint8 RGB, sizes may differ.
            boxes: per image an (m, 4) float32 array of pixels.

        Returns:
            The embeddings of all boxes, image by image.
        """

    def pooled(self, views: np.ndarray) -> np.ndarray:
        """Returns (n, d) float32 whole-image features, not normalised, of (n, h, w, 3) uint8 views."""

    def scores(self, embedded: Embedded, phrases: Sequence[str]) -> np.ndarray:
        """Returns (n, p) float32 scores of phrases for embeddings; higher is nearer."""


class EfficientNetEncoder:
    """EfficientNet-Lite0: 1,280 features from a 7×7 map, RoIAlign per region, ConSE for names.

    Args:
        compute: where it runs.
    """

    width = 1280

    def __init__(self, compute: ComputeConfig) -> None:
        from discovery.backends.conse import ConseSpace
        from discovery.backends.efficientnet import load_efficientnet_lite0

        self._net = load_efficientnet_lite0(compute)
        self._space = ConseSpace(compute)

    def embed(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Embedded:
        """See `Encoder.embed`."""
        import torch
        from torchvision.ops import roi_align

        from discovery.backends.efficientnet import INPUT_PX, STRIDE_PX
        from discovery.images import resize

        dense = self._net.dense(np.stack([resize(image, INPUT_PX, INPUT_PX) for image in images]))
        scales = [INPUT_PX / np.array(image.shape[1::-1] * 2, np.float32) for image in images]
        rois = [torch.from_numpy((b * s).astype(np.float32)) for b, s in zip(boxes, scales, strict=True)]
        rois = [roi.to(dense.device) for roi in rois]
        with torch.inference_mode():
            pooled = roi_align(dense, rois, 2, 1 / STRIDE_PX, sampling_ratio=2, aligned=True).mean(dim=(2, 3))
            norm = pooled.norm(dim=1).clamp_min(1e-12)
            return Embedded((pooled / norm[:, None]).cpu().numpy(), norm.cpu().numpy())

    def pooled(self, views: np.ndarray) -> np.ndarray:
        """See `Encoder.pooled`."""
        return self._net.pooled(views).cpu().numpy()

    def scores(self, embedded: Embedded, phrases: Sequence[str]) -> np.ndarray:
        """See `Encoder.scores`: ConSE of the features, in standard deviations."""
        import torch

        features = torch.from_numpy(embedded.embedding * embedded.norm[:, None]).to(self._net.device)
        return self._space.scores(features, phrases).cpu().numpy()


ENCODERS: dict[str, Callable[[ComputeConfig], Encoder]] = {"efficientnet_lite0": EfficientNetEncoder}


@lru_cache(maxsize=2)
def load_encoder(name: str, compute: ComputeConfig) -> Encoder:
    """Loads an encoder by name, once per process.

    Raises:
        ConfigError: there is no such encoder.
    """
    if name not in ENCODERS:
        raise ConfigError(f"unknown encoder {name!r}; choose from {', '.join(ENCODERS)}")
    return ENCODERS[name](compute)
