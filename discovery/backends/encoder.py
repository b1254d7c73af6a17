"""Images and boxes → unit-norm embeddings: dense features once per image, pooled per region."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from discovery.backends.checkpoint import read_choice
from discovery.backends.views import CentreCrop, Sight
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


class Encoder(Sight, Protocol):
    """Embeds regions of images, and says where an embedding lies among phrases.

    It is a `Sight` for `pooled`: what it sees of a whole image.
    """

    width: int
    """d, the length of an embedding."""
    input_px: int
    """The shorter side of a view."""
    speaks: bool
    """Whether it can score phrases; one that cannot has its clusters named by another (`embed.namer`)."""

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
        """Returns (n, p) float32 scores of phrases for embeddings; higher is nearer.

        Raises:
            BackendError: it does not speak.
        """


class EfficientNetEncoder:
    """EfficientNet-Lite0: 1,280 features from a 7×7 map, RoIAlign per region, ConSE for names.

    Args:
        compute: where it runs.
    """

    width, input_px, speaks = 1280, 224, True

    def __init__(self, compute: ComputeConfig) -> None:
        from discovery.backends.conse import ConseSpace
        from discovery.backends.efficientnet import load_efficientnet_lite0

        crop = CentreCrop(self.input_px, 256)
        self.view, self.field = crop.view, crop.field
        self._net = load_efficientnet_lite0(compute)
        self._space = ConseSpace(compute)

    def embed(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Embedded:
        """See `Encoder.embed`."""
        import torch
        from torchvision.ops import roi_align

        from discovery.backends.efficientnet import INPUT_PX, STRIDE_PX
        from discovery.images import resize

        if not len(images):
            return Embedded(np.empty((0, self.width), np.float32), np.empty(0, np.float32))
        dense = self._net.dense(np.stack([resize(image, INPUT_PX, INPUT_PX) for image in images]))
        scales = [INPUT_PX / np.array(image.shape[1::-1] * 2, np.float32) for image in images]
        rois = [torch.from_numpy((b * s).astype(np.float32)) for b, s in zip(boxes, scales, strict=True)]
        rois = [roi.to(dense.device) for roi in rois]
        with torch.inference_mode():
            pooled = roi_align(dense, rois, 2, 1 / STRIDE_PX, sampling_ratio=2, aligned=True).mean(dim=(2, 3))
            norm = pooled.norm(dim=1).clamp_min(1e-12)
            return Embedded((pooled / norm[:, None]).cpu().numpy(), norm.cpu().numpy())

    def dense(self, views: np.ndarray) -> np.ndarray:
        """Returns (n, d, r, s) float32 features of views; `pooled` is their mean over the map."""
        return self._net.dense(views).cpu().numpy()

    def pooled(self, views: np.ndarray) -> np.ndarray:
        """See `Encoder.pooled`."""
        return self._net.pooled(views).cpu().numpy() if len(views) else np.empty((0, self.width), np.float32)

    def scores(self, embedded: Embedded, phrases: Sequence[str]) -> np.ndarray:
        """See `Encoder.scores`: ConSE of the features, in standard deviations."""
        import torch

        features = torch.from_numpy(embedded.embedding * embedded.norm[:, None]).to(self._net.device)
        return self._space.scores(features, phrases).cpu().numpy()


def _load_efficientnet(checkpoint: str | None, compute: ComputeConfig) -> Encoder:
    if checkpoint:
        raise ConfigError(f"efficientnet_lite0 has its weights in its package and reads no checkpoint {checkpoint!r}")
    return EfficientNetEncoder(compute)


def _load_clip(checkpoint: str | None, compute: ComputeConfig) -> Encoder:
    from discovery.backends.encoder_vit import JointEncoder

    return JointEncoder("clip", checkpoint, compute)


def _load_siglip(checkpoint: str | None, compute: ComputeConfig) -> Encoder:
    from discovery.backends.encoder_vit import JointEncoder

    return JointEncoder("siglip", checkpoint, compute)


def _load_dinov2(checkpoint: str | None, compute: ComputeConfig) -> Encoder:
    from discovery.backends.encoder_vit import DinoEncoder

    return DinoEncoder(checkpoint, compute)


ENCODERS: dict[str, Callable[[str | None, ComputeConfig], Encoder]] = {
    "efficientnet_lite0": _load_efficientnet,
    "clip": _load_clip,
    "siglip": _load_siglip,
    "dinov2": _load_dinov2,
}


@lru_cache(maxsize=3)  # of regions, of a probe, and one that names clusters
def load_encoder(setting: str, compute: ComputeConfig) -> Encoder:
    """Loads an encoder by its setting, `name` or `name:checkpoint`, once per process.

    Raises:
        ConfigError: there is no such encoder.
        BackendError: its checkpoint is not here or of another type.
    """
    choice = read_choice(setting)
    if choice.name not in ENCODERS:
        raise ConfigError(f"unknown encoder {choice.name!r}; choose from {', '.join(ENCODERS)}")
    return ENCODERS[choice.name](choice.checkpoint, compute)
