"""Vision transformers as encoders: CLIP and SigLIP in their joint space with text, DINOv2 in its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from discovery.backends.checkpoint import load_model, load_processor
from discovery.backends.encoder import Embedded
from discovery.backends.joint import load_joint
from discovery.backends.preprocessing import Preprocessing
from discovery.config import ComputeConfig
from discovery.errors import BackendError

if TYPE_CHECKING:
    import torch

DINOV2 = "facebook/dinov2-base"
TEMPLATE = "a photo of {}"


class JointEncoder:
    """CLIP or SigLIP: patch tokens of one forward pass, averaged per region and taken into the joint space.

    The image is squeezed whole into the network's input, so that no region lies outside. How a region gets into the
    joint space is an approximation, see `JointSpace.project`; `pooled` is the model's own image embedding.

    Args:
        family: clip or siglip.
        checkpoint: a local folder or a hub id.
        compute: where it runs.
    """

    speaks = True

    def __init__(self, family: str, checkpoint: str | None, compute: ComputeConfig) -> None:
        self._space = space = load_joint(family, checkpoint, compute)
        self.width, self.input_px = space.width, min(space.sight.shape)
        self.view, self.field = space.sight.view, space.sight.field
        self._tower = _Tower(space.sight.shape, space.patch_px, lambda views: space.images(views)[0], space.project)

    def embed(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Embedded:
        """See `Encoder.embed`."""
        return self._tower.embed(images, boxes) if len(images) else _nothing(self.width)

    def pooled(self, views: np.ndarray) -> np.ndarray:
        """See `Encoder.pooled`."""
        if not len(views):
            return np.empty((0, self.width), np.float32)
        return self._space.images(views)[1].float().cpu().numpy()

    def scores(self, embedded: Embedded, phrases: Sequence[str]) -> np.ndarray:
        """See `Encoder.scores`: cosines with "a photo of …" in the joint space, times the model's own scale."""
        text = self._space.text([TEMPLATE.format(phrase) for phrase in phrases])
        return (self._space.scale * embedded.embedding @ text.T).astype(np.float32)


class DinoEncoder:
    """DINOv2 (with or without registers): patch tokens averaged per region; it knows no text.

    Args:
        checkpoint: a local folder or a hub id.
        compute: where it runs.
    """

    speaks = False

    def __init__(self, checkpoint: str | None, compute: ComputeConfig) -> None:
        from transformers import AutoImageProcessor, AutoModel

        source = checkpoint or DINOV2
        types = ("dinov2", "dinov2_with_registers")
        self._model = load_model(AutoModel, source, compute, types=types)
        self._sight = Preprocessing(load_processor(AutoImageProcessor, source, compute), source)
        self.width, self.input_px = self._model.config.hidden_size, min(self._sight.shape)
        self.view, self.field = self._sight.view, self._sight.field
        self._tower = _Tower(self._sight.shape, self._model.config.patch_size, self._tokens, lambda states: states)

    def embed(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Embedded:
        """See `Encoder.embed`."""
        return self._tower.embed(images, boxes) if len(images) else _nothing(self.width)

    def pooled(self, views: np.ndarray) -> np.ndarray:
        """See `Encoder.pooled`: the class token."""
        if not len(views):
            return np.empty((0, self.width), np.float32)
        return self._tokens(views)[:, 0].float().cpu().numpy()

    def scores(self, embedded: Embedded, phrases: Sequence[str]) -> np.ndarray:
        """Raises BackendError: there is no text to compare with."""
        raise BackendError("dinov2 knows no text; name its clusters with embed.namer, an encoder that does")

    def _tokens(self, views: Sequence[np.ndarray]) -> "torch.Tensor":
        import torch

        with torch.inference_mode():
            batch = self._sight.tensor(views, self._model.device).to(self._model.dtype)
            return self._model(pixel_values=batch).last_hidden_state


@dataclass(frozen=True)
class _Tower:
    """A vision transformer as a grid of patches.

    Attributes:
        shape: (h, w) of its input.
        patch_px: side of a patch.
        tokens: (h, w, 3) uint8 views → (n, tokens, hidden), the patches last.
        project: (m, hidden) → (m, d).
    """

    shape: tuple[int, int]
    patch_px: int
    tokens: Callable[[Sequence[np.ndarray]], "torch.Tensor"]
    project: Callable[["torch.Tensor"], "torch.Tensor"]

    def embed(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Embedded:
        """Embeds regions: one forward pass per image, RoIAlign on the grid of its patches, then the projection."""
        import torch

        from discovery.images import resize

        with torch.inference_mode():
            grid = self._grid(self.tokens([resize(image, *self.shape) for image in images]))
            shares = [b / (image.shape[1::-1] * 2) for b, image in zip(boxes, images, strict=True)]
            found = self.project(_pool(grid.float(), shares).to(grid.dtype)).float()
            norm = found.norm(dim=1).clamp_min(1e-12)
            return Embedded((found / norm[:, None]).cpu().numpy(), norm.cpu().numpy())

    def _grid(self, states: "torch.Tensor") -> "torch.Tensor":
        """Returns (n, hidden, rows, columns); before the patches stand a class token and registers, if any."""
        rows, columns = (side // self.patch_px for side in self.shape)
        return states[:, states.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def _pool(grid: "torch.Tensor", shares: Sequence[np.ndarray]) -> "torch.Tensor":
    """Returns (m, hidden) means of a grid over boxes given as shares of width and height."""
    import torch
    from torchvision.ops import roi_align

    rows, columns = grid.shape[2:]
    rois = [torch.from_numpy(np.asarray(b * ([columns, rows] * 2), np.float32)).to(grid.device) for b in shares]
    return roi_align(grid, rois, 2, 1.0, sampling_ratio=2, aligned=True).mean(dim=(2, 3))


def _nothing(width: int) -> Embedded:
    return Embedded(np.empty((0, width), np.float32), np.empty(0, np.float32))
