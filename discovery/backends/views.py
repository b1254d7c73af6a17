"""An image → the view that a network sees of it: resized and cropped, and which part of the image is left."""

from typing import Protocol

import numpy as np

from discovery.images import resize


class Sight(Protocol):
    """How a model sees an image."""

    def view(self, image: np.ndarray) -> np.ndarray:
        """Returns the (h, w, 3) uint8 pixels that the model sees of an (H, W, 3) uint8 image."""

    def field(self, height_px: int, width_px: int) -> np.ndarray:
        """Returns the (4,) xyxy part of an image of this size that a view shows."""


class CentreCrop:
    """The view of most image networks: the shorter side resized, then the centre cropped.

    Args:
        input_px: side of the view.
        resize_px: of the shorter side before the crop; the view's own side by default.
    """

    def __init__(self, input_px: int, resize_px: int | None = None) -> None:
        self._input_px, self._resize_px = input_px, max(resize_px or input_px, input_px)

    def view(self, image: np.ndarray) -> np.ndarray:
        """See `Sight.view`."""
        height, width = image.shape[:2]
        scale = self._resize_px / min(height, width)
        whole = resize(image, max(round(height * scale), self._input_px), max(round(width * scale), self._input_px))
        top, left = (whole.shape[0] - self._input_px) // 2, (whole.shape[1] - self._input_px) // 2
        return np.ascontiguousarray(whole[top : top + self._input_px, left : left + self._input_px])

    def field(self, height_px: int, width_px: int) -> np.ndarray:
        """See `Sight.field`."""
        side = min(height_px, width_px) * self._input_px / self._resize_px
        top, left = (height_px - side) / 2, (width_px - side) / 2
        return np.array([left, top, left + side, top + side], np.float32)


class WholeImage:
    """The view of a model that prepares images by itself: the image as it is."""

    def view(self, image: np.ndarray) -> np.ndarray:
        """See `Sight.view`."""
        return image

    def field(self, height_px: int, width_px: int) -> np.ndarray:
        """See `Sight.field`."""
        return np.array([0, 0, width_px, height_px], np.float32)
