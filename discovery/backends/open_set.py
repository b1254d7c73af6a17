"""Raw scores and boxes of an open-set model → `Regions`: clipped, thinned per phrase; batches that fit into memory."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from discovery.backends.detector import Phrase
from discovery.config import DetectConfig
from discovery.errors import BackendError
from discovery.regions import Regions

_log = logging.getLogger(__name__)

KINDS = frozenset({"object", "background", "texture", "text", "border"})
"""Kinds that have a place: what a computed detector does not see of them goes to the open-set one."""
CANDIDATES = 64
"""Boxes per image and phrase that are thinned; what scores lower is not looked at."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def sees_place(phrase: Phrase) -> bool:
    """Tells whether a phrase is of a kind that an open-set model can put a box around."""
    return phrase.kind in KINDS


class Batches:
    """Cuts images into batches; a batch that does not fit into memory is halved, and the smaller size is kept.

    Args:
        size: images per batch at first.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def run(self, images: Sequence[np.ndarray], work: Callable[[Sequence[np.ndarray]], Regions]) -> Regions:
        """Returns what `work` finds in all images; `image` indexes them as given.

        Raises:
            BackendError: not even one image fits into memory.
        """
        parts, start = [], 0
        while start < len(images):
            chunk = images[start : start + self._size]
            try:
                found = work(chunk)
            except (RuntimeError, MemoryError) as error:
                self._halve(len(chunk), error)
                continue
            parts.append(shift_images(found, start))
            start += len(chunk)
        return Regions.concat(parts)

    def _halve(self, tried: int, error: Exception) -> None:
        if not (isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)):
            raise error
        if tried == 1:
            raise BackendError(
                "one photo does not fit into memory; lower detect.phrases_per_pass, take a smaller checkpoint, "
                "or set compute.device = 'cpu'"
            ) from error
        self._size = max(1, tried // 2)
        _log.warning("out of memory with %d photos at once: going on with %d", tried, self._size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Queries:
    """Embeddings of what is asked for: each text is embedded once and kept.

    Args:
        embed: n texts → (n, d).
        at_once: texts per call of it.
    """

    def __init__(self, embed: Callable[[Sequence[str]], torch.Tensor], at_once: int) -> None:
        self._embed, self._at_once = embed, at_once
        self._known: dict[str, torch.Tensor] = {}

    def of(self, phrases: Sequence[Phrase]) -> torch.Tensor:
        """Returns (p, d) embeddings of at least one phrase."""
        texts = [phrase.text for phrase in phrases]
        new = sorted(set(texts) - self._known.keys())
        for part in chunks(len(new), self._at_once):
            self._known.update(zip(new[part], self._embed(new[part]), strict=True))
        return torch.stack([self._known[text] for text in texts])

    @torch.inference_mode()
    def find(
        self,
        images: Sequence[np.ndarray],
        phrases: Sequence[Phrase],
        batches: Batches,
        look: Callable[[Sequence[np.ndarray], torch.Tensor], Regions],
    ) -> Regions:
        """Returns what `look` finds of the phrases' embeddings in all images; see `Detector.detect`."""
        if not len(images) or not len(phrases):
            return Regions.build([])
        asked = self.of(phrases)
        return batches.run(images, lambda chunk: look(chunk, asked))


def shift_images(found: Regions, by: int) -> Regions:
    """Returns regions whose `image` counts from another start."""
    return replace(found, image=found.image + by)


def chunks(n: int, size: int) -> Iterator[slice]:
    """Yields slices of at most `size` that cover range(n)."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


@dataclass(frozen=True)
class Chosen:
    """The best boxes of a batch.

    Attributes:
        regions: what was chosen.
        box: (n,) int64, for each region the number of its box among those given.
        sizes_px: (height, width) of every image.
    """

    regions: Regions
    box: np.ndarray
    sizes_px: Sequence[tuple[int, int]]


def choose(
    scores: torch.Tensor, xyxy: torch.Tensor, sizes_px: Sequence[tuple[int, int]], config: DetectConfig
) -> Chosen:
    """Returns the best boxes of every image and phrase.

    A box whose centre lies outside the image (in the padding) is dropped, the others are clipped. Of the boxes of one
    phrase that overlap by more than `nms_iou` the best stays (greedy non-maximum suppression), and at most
    `boxes_per_phrase` from `min_score` on.

    Args:
        scores: (n, boxes, phrases) float in [0, 1].
        xyxy: (n, boxes, 4) pixels in the images.
        sizes_px: (height, width) of every image.
        config: the thresholds.
    """
    n, n_boxes, n_phrases = scores.shape
    if not n or not n_boxes or not n_phrases:
        return Chosen(Regions.build([]), np.empty(0, np.int64), sizes_px)
    limit = torch.tensor([[width, height] for height, width in sizes_px], dtype=torch.float32, device=xyxy.device)
    boxes = xyxy.float()
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside = ((centre >= 0) & (centre <= limit[:, None])).all(-1)
    boxes = boxes.clamp_min(0).minimum(limit.repeat(1, 2)[:, None])
    inside &= (boxes[..., 2:] > boxes[..., :2]).all(-1)
    scores = scores.float().masked_fill(~inside[..., None], -1.0)
    best, index = scores.transpose(1, 2).topk(min(CANDIDATES, n_boxes), dim=-1)  # (n, phrases, candidates)
    boxes = boxes[torch.arange(n, device=boxes.device)[:, None, None], index]
    kept = _suppress(boxes.flatten(0, 1), best.flatten(0, 1) >= config.min_score, config.nms_iou).view_as(best)
    kept &= kept.cumsum(-1) <= config.boxes_per_phrase
    image, phrase, rank = kept.nonzero(as_tuple=True)
    at = (image, phrase, rank)
    columns = (column.cpu().numpy() for column in (image, phrase, boxes[at], best[at]))
    return Chosen(Regions(*columns), index[at].cpu().numpy(), sizes_px)


def to_regions(
    scores: torch.Tensor, xyxy: torch.Tensor, sizes_px: Sequence[tuple[int, int]], config: DetectConfig
) -> Regions:
    """Returns the regions of `choose`, for a model that has boxes alone."""
    return choose(scores, xyxy, sizes_px, config).regions


def _suppress(boxes: torch.Tensor, alive: torch.Tensor, iou: float) -> torch.Tensor:
    """Returns (m, c) bool: which of c boxes, best first, stay; all m rows are thinned at once.

    Args:
        boxes: (m, c, 4) pixels, best first.
        alive: (m, c) bool, those that pass the floor.
        iou: overlap from which the lower one goes.
    """
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = (high - low).clamp_min(0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    too_near = common > iou * (area[:, :, None] + area[:, None, :] - common)
    alive = alive.clone()
    for first in range(boxes.shape[1] - 1):
        later = too_near[:, first, first + 1 :] & alive[:, first, None]
        alive[:, first + 1 :] &= ~later
    return alive
