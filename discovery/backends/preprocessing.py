"""An image processor of transformers → the view that its model sees, and the numbers its network gets, both measured.

Processors differ in what they do and in how they are configured: squeezed or cropped, crop before resize, a share
instead of pixels, channels turned round, timm's own transforms. So none of that is read. What a processor does to
colours is measured on flat images, and which part of a photo it shows on a ramp. What it leaves of a photo is taken
back to pixels, so that interventions change exactly what the network sees.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from discovery.errors import BackendError

if TYPE_CHECKING:
    import torch

COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
TRIED = (40, 200, 90)
"""A colour that the measured map must predict: it is affine, or this is no such processor."""
RAMP_PX = 256
"""Shorter side of the ramp that a field is measured on."""
LONGEST_PX = 4096


class Preprocessing:
    """What a model's own image processor does.

    Args:
        processor: an image processor of transformers.
        source: the checkpoint, for error messages.

    Raises:
        BackendError: what it does to colours is no affine map, or it gives no single square or oblong of pixels.
    """

    def __init__(self, processor: Any, source: str) -> None:
        self._processor, self._source = processor, source
        flat = [self._colour(colour) for colour in COLOURS]
        self._offset = flat[0]
        self._matrix = np.stack([(one - flat[0]) / 255 for one in flat[1:]], axis=1)
        if abs(np.linalg.det(self._matrix)) < 1e-12 or not np.allclose(
            self._colour(TRIED), self._matrix @ TRIED + self._offset, atol=0.02 * np.abs(self._matrix).max() * 255
        ):
            raise BackendError(f"the image processor of {source} changes colours in a way that cannot be undone")
        self._inverse = np.linalg.inv(self._matrix)
        self.shape: tuple[int, int] = self.view(np.zeros((RAMP_PX, RAMP_PX, 3), np.uint8)).shape[:2]
        self.field = lru_cache(maxsize=4096)(self._field)

    def view(self, image: np.ndarray) -> np.ndarray:
        """Returns the (h, w, 3) uint8 pixels that the model sees of an (H, W, 3) uint8 image."""
        numbers = self._run(image).transpose(1, 2, 0).astype(np.float64)
        return np.clip(np.rint((numbers - self._offset) @ self._inverse.T), 0, 255).astype(np.uint8)

    def tensor(self, views: Sequence[np.ndarray], device: "torch.device") -> "torch.Tensor":
        """Returns (n, 3, h, w) float32, what the network gets, of (h, w, 3) uint8 views."""
        import torch

        pixels = torch.from_numpy(np.asarray(views)).to(device).permute(0, 3, 1, 2).float()
        matrix, offset = (torch.tensor(x, dtype=torch.float32, device=device) for x in (self._matrix, self._offset))
        if np.count_nonzero(self._matrix) == 3 and np.diag(self._matrix).all():
            return pixels * matrix.diag().view(3, 1, 1) + offset.view(3, 1, 1)
        return torch.einsum("oc,nchw->nohw", matrix, pixels) + offset.view(3, 1, 1)

    def _field(self, height_px: int, width_px: int) -> np.ndarray:
        """Returns the (4,) xyxy part of an image of this size that a view shows, measured on a ramp of its shape."""
        scale = min(RAMP_PX / min(height_px, width_px), LONGEST_PX / max(height_px, width_px))
        height, width = (max(2, round(side * scale)) for side in (height_px, width_px))
        ramp = np.zeros((height, width, 3), np.uint8)
        ramp[..., 0] = np.rint(np.linspace(0, 255, width))
        ramp[..., 1] = np.rint(np.linspace(0, 255, height))[:, None]
        seen = self.view(ramp).astype(np.float64)
        x0, x1 = _ends(seen[..., 0].mean(axis=0), width)
        y0, y1 = _ends(seen[..., 1].mean(axis=1), height)
        scales = np.array([width_px / width, height_px / height] * 2)
        field = np.array([x0, y0, x1, y1]) * scales
        return np.clip(field, 0, [width_px, height_px] * 2).astype(np.float32)

    def _colour(self, colour: tuple[int, int, int]) -> np.ndarray:
        image = np.empty((RAMP_PX, RAMP_PX, 3), np.uint8)
        image[:] = colour
        return self._run(image).mean(axis=(1, 2), dtype=np.float64)

    def _run(self, image: np.ndarray) -> np.ndarray:
        numbers = self._processor(images=Image.fromarray(image), return_tensors="pt").get("pixel_values")
        array = np.asarray(numbers)
        if array.ndim != 4 or array.shape[:2] != (1, 3):
            raise BackendError(
                f"the image processor of {self._source} gives {array.shape}, not one (3, h, w) per image"
            )
        return array[0]


def _ends(levels: np.ndarray, length: int) -> tuple[float, float]:
    """Returns where in a ramp of `length` pixels the first and the last pixel of its view begin and end."""
    at = np.arange(len(levels))
    inner = (levels > 8) & (levels < 247)  # the ramp's ends are repeated where a small image is blown up
    chosen = inner if inner.sum() >= 2 else np.ones(len(levels), bool)
    slope, start = np.polyfit(at[chosen], levels[chosen], 1)
    per_level = (length - 1) / 255
    first, last = start - slope / 2, start + slope * (len(levels) - 0.5)
    return first * per_level + 0.5, last * per_level + 0.5
