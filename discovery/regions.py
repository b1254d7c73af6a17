"""Boxes and masks of images as one validated columnar type, and the geometry on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

WHOLE_IMAGE = np.full(4, np.nan, np.float32)


@dataclass(frozen=True)
class Regions:
    """Regions found in a batch of images.

    Attributes:
        image: (n,) int64, index of the image in the batch.
        phrase: (n,) int64, index of the phrase, or -1 for a class-agnostic proposal.
        xyxy: (n, 4) float32 pixels in the image; a row of NaN is a whole-image cue.
        score: (n,) float32, the detector's own score.
        mask_rle: n items, `encode_rle` bytes or None where the box is all there is.

    Raises:
        ValueError: the columns disagree in length, or a box is empty or half NaN.
    """

    image: np.ndarray
    phrase: np.ndarray
    xyxy: np.ndarray
    score: np.ndarray
    mask_rle: tuple[bytes | None, ...] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.image)
        if not self.mask_rle:
            object.__setattr__(self, "mask_rle", (None,) * n)
        shapes = (len(self.phrase), self.xyxy.shape, len(self.score), len(self.mask_rle))
        if shapes != (n, (n, 4), n, n):
            raise ValueError(f"regions: columns disagree, got {n} images and {shapes}")
        whole = np.isnan(self.xyxy).all(axis=1)
        sized = (self.xyxy[:, 2] > self.xyxy[:, 0]) & (self.xyxy[:, 3] > self.xyxy[:, 1])
        if not (whole | sized).all():
            bad = self.xyxy[~(whole | sized)][0]
            raise ValueError(f"regions: a box must be x0 < x1 and y0 < y1, or all NaN, got {bad}")

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def build(cls, rows: Sequence[tuple]) -> "Regions":
        """Builds regions from rows of (image, phrase, xyxy or None, score, mask_rle or None)."""
        boxes = [WHOLE_IMAGE if row[2] is None else np.asarray(row[2], np.float32) for row in rows]
        return cls(
            image=np.array([row[0] for row in rows], np.int64),
            phrase=np.array([row[1] for row in rows], np.int64),
            xyxy=np.stack(boxes) if rows else np.empty((0, 4), np.float32),
            score=np.array([row[3] for row in rows], np.float32),
            mask_rle=tuple(row[4] for row in rows),
        )

    @classmethod
    def concat(cls, parts: Sequence["Regions"]) -> "Regions":
        """Joins regions of the same batch."""
        if not parts:
            return cls.build([])
        return cls(
            image=np.concatenate([p.image for p in parts]),
            phrase=np.concatenate([p.phrase for p in parts]),
            xyxy=np.concatenate([p.xyxy for p in parts]),
            score=np.concatenate([p.score for p in parts]),
            mask_rle=tuple(rle for p in parts for rle in p.mask_rle),
        )


def pick(regions: Regions, which: np.ndarray) -> Regions:
    """Returns the regions at (n,) bool `which`."""
    masks = tuple(rle for rle, mine in zip(regions.mask_rle, which, strict=True) if mine)
    columns = (regions.image, regions.phrase, regions.xyxy, regions.score)
    return Regions(*(column[which] for column in columns), masks)


def encode_rle(mask: np.ndarray) -> bytes:
    """Encodes a (H, W) bool mask as uint32: H, W, then row-major run lengths that start with the zeros."""
    flat = np.concatenate([[False], mask.reshape(-1), [False]]).astype(bool)
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges, [mask.size]]) if mask.size else [0])
    return np.concatenate([mask.shape, runs]).astype("<u4").tobytes()


def decode_rle(rle: bytes) -> np.ndarray:
    """Decodes `encode_rle` to a (H, W) bool mask."""
    numbers = np.frombuffer(rle, "<u4").astype(np.int64)
    height, width, runs = int(numbers[0]), int(numbers[1]), numbers[2:]
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)


def clip_boxes(xyxy: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Clips (n, 4) boxes to an image; NaN stays NaN."""
    return np.clip(xyxy, 0, np.array([width_px, height_px] * 2, np.float32)).astype(np.float32)


def draw_mask(
    xyxy: np.ndarray,
    mask_rle: bytes | None,
    size_px: tuple[int, int],
    shape: tuple[int, int],
    *,
    field: np.ndarray | None = None,
) -> np.ndarray:
    """Draws one region into a (h, w) bool mask.

    Args:
        xyxy: (4,) pixels in the original image, NaN for the whole image.
        mask_rle: the region's mask, which covers the whole image; None to fill the box.
        size_px: (height, width) of the original image.
        shape: (h, w) of the mask to draw.
        field: (4,) xyxy part of the original that the drawn mask covers; all of it by default.
    """
    height, width = size_px
    x0, y0, x1, y1 = (0, 0, width, height) if field is None else field
    y = y0 + (np.arange(shape[0]) + 0.5) * (y1 - y0) / shape[0]
    x = x0 + (np.arange(shape[1]) + 0.5) * (x1 - x0) / shape[1]
    if mask_rle is not None:
        mask = decode_rle(mask_rle)
        rows = np.clip(y * mask.shape[0] / height, 0, mask.shape[0] - 1).astype(int)
        columns = np.clip(x * mask.shape[1] / width, 0, mask.shape[1] - 1).astype(int)
        return mask[rows[:, None], columns[None, :]]
    if np.isnan(xyxy).any():
        return np.ones(shape, bool)
    return ((y >= xyxy[1]) & (y < xyxy[3]))[:, None] & ((x >= xyxy[0]) & (x < xyxy[2]))[None, :]


def overlap_frac(xyxy: np.ndarray, other_xyxy: np.ndarray) -> np.ndarray:
    """Returns (n,) shares of each box's area that lies in its counterpart, both (n, 4) pixels."""
    low = np.maximum(xyxy[:, :2], other_xyxy[:, :2])
    high = np.minimum(xyxy[:, 2:], other_xyxy[:, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=1)
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)
    return inside / np.maximum(area, 1e-9)


def best_iou(found: Regions, other: Regions) -> np.ndarray:
    """Returns (n,) float32: for each region its best IoU with the other's of the same image and phrase; 0 without any.

    A region that has no place (a whole-image cue) agrees with another that has none.
    """
    best = np.zeros(len(found), np.float32)
    for i in range(len(found)):
        rivals = other.xyxy[(other.image == found.image[i]) & (other.phrase == found.phrase[i])]
        if np.isnan(found.xyxy[i]).any():
            best[i] = float(np.isnan(rivals).any())
        elif len(rivals := rivals[~np.isnan(rivals).any(axis=1)]):
            mine = np.repeat(found.xyxy[i][None], len(rivals), axis=0)
            common = overlap_frac(mine, rivals) * (mine[:, 2:] - mine[:, :2]).prod(axis=1)
            area = (rivals[:, 2:] - rivals[:, :2]).prod(axis=1) + (mine[:, 2:] - mine[:, :2]).prod(axis=1)
            best[i] = (common / (area - common)).max()
    return best
