"""Images and phrases → boxes by Grounding DINO: the backbone once per photo, and as many phrases per text as it reads.

Liu et al. 2023 (Grounding DINO) and Zhao et al. 2024 (MM-Grounding-DINO) read all phrases as one text, "a . b . c .",
and mix it into the image from the first encoder layer on. So only the features of the image backbone can be kept for
the next text; encoder and decoder run once per text, and a text holds at most `max_text_len` tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch

from discovery.backends.checkpoint import load_model, load_processor
from discovery.backends.detector import Phrase
from discovery.backends.open_set import Batches, sees_place, shift_images, to_regions
from discovery.config import ComputeConfig, DetectConfig
from discovery.device import device_for
from discovery.images import resize
from discovery.regions import Regions

TYPES = {"grounding_dino": "grounding-dino", "mm_grounding_dino": "mm-grounding-dino"}
THINNEST = 64
"""Longer side over shorter side of a photo from which it is stretched."""
_DIVIDERS = str.maketrans(dict.fromkeys(".?", " "))
"""Marks by which the model tells one phrase from the next; a phrase may hold none of them."""


class GroundingDetector:
    """Open-set detection by text with Grounding DINO or MM-Grounding-DINO.

    Args:
        name: "grounding_dino" or "mm_grounding_dino".
        checkpoint: a folder or a hub id.
        config: the floor, and how much is done at once.
        compute: where it runs.
    """

    def __init__(self, name: str, checkpoint: str, config: DetectConfig, compute: ComputeConfig) -> None:
        import transformers

        auto = transformers.AutoModelForZeroShotObjectDetection
        self._net: Any = load_model(auto, checkpoint, compute, types=(TYPES[name],))
        self._backbone = self._net.model.backbone = _Kept(self._net.model.backbone)
        processor = load_processor(transformers.AutoProcessor, checkpoint, compute)
        self._views, self._tokens = processor.image_processor, processor.tokenizer
        self._device, self._config = device_for(compute), config
        self._batches = Batches(min(config.images_per_pass, compute.batch_size))

    def sees(self, phrase: Phrase) -> bool:
        """Tells whether the phrase has a place; free text is all it needs."""
        return sees_place(phrase)

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Phrase]) -> Regions:
        """See `Detector.detect`."""
        if not len(images) or not len(phrases):
            return Regions.build([])
        texts = self.texts([phrase.text for phrase in phrases])
        order = sorted(range(len(images)), key=lambda i: images[i].shape)  # like by like: few batches are cut short
        found = self._batches.run([images[i] for i in order], lambda chunk: self._find(chunk, texts))
        return replace(found, image=np.array(order, np.int64)[found.image])

    def texts(self, phrases: Sequence[str]) -> list[list[list[int]]]:
        """Returns texts as lists of the tokens of their phrases: as few texts as hold all phrases in order.

        A phrase alone too long for a text is cut; one of no known letter is read as an unknown word.
        """
        room = self._net.config.max_text_len - 2  # [CLS] at the start and [SEP] at the end
        texts, used = [], room
        for phrase in phrases:
            tokens = self._tokens(phrase.lower().translate(_DIVIDERS), add_special_tokens=False)["input_ids"]
            tokens = tokens[: room - 1] or [self._tokens.unk_token_id]
            if used + len(tokens) + 1 > room or len(texts[-1]) == self._config.phrases_per_pass:
                texts.append([])
                used = 0
            texts[-1].append(tokens)
            used += len(tokens) + 1
        return texts

    def _find(self, images: Sequence[np.ndarray], texts: Sequence[list[list[int]]]) -> Regions:
        """Finds the texts in images, one shape at a time: padding to another's shape would move the boxes."""
        parts, first = [], 0
        for _, group in groupby(images, key=lambda image: image.shape):
            alike = list(group)
            parts.append(shift_images(self._find_alike(alike, texts), first))
            first += len(alike)
        return Regions.concat(parts)

    @torch.inference_mode()
    def _find_alike(self, images: Sequence[np.ndarray], texts: Sequence[list[list[int]]]) -> Regions:
        shown = [_thickened(image) for image in images]
        views = self._views(images=shown, input_data_format="channels_last", return_tensors="pt")
        pixels, mask = views["pixel_values"].to(self._device, self._net.dtype), views["pixel_mask"].to(self._device)
        sizes, parts, first = [image.shape[:2] for image in images], [], 0
        scale = torch.tensor([size[::-1] * 2 for size in sizes], dtype=torch.float32, device=self._device)[:, None]
        try:
            for text in texts:
                scores, boxes = self._answer(pixels, mask, text)
                found = to_regions(scores, boxes * scale, sizes, self._config)
                parts.append(replace(found, phrase=found.phrase + first))
                first += len(text)
        finally:
            self._backbone.forget()
        return Regions.concat(parts)

    def _answer(
        self, pixels: torch.Tensor, mask: torch.Tensor, text: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (n, boxes, p) scores of phrases, each the mean over its tokens, and (n, boxes, 4) xyxy in [0, 1]."""
        row, places = [self._tokens.cls_token_id], []
        for tokens in text:
            places.append(slice(len(row), len(row) + len(tokens)))
            row += [*tokens, self._tokens.convert_tokens_to_ids(".")]
        ids = torch.tensor([[*row, self._tokens.sep_token_id]] * len(pixels), device=self._device)
        answer = self._net(pixel_values=pixels, pixel_mask=mask, input_ids=ids, attention_mask=torch.ones_like(ids))
        probs = answer.logits.float().sigmoid()
        centre, extent = answer.pred_boxes.float().split(2, dim=-1)
        boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=-1)
        return torch.stack([probs[..., place].mean(-1) for place in places], dim=-1), boxes


def _thickened(image: np.ndarray) -> np.ndarray:
    """Stretches a photo thinner than the processor can shrink: it would be less than a pixel high or wide."""
    height, width = image.shape[:2]
    return resize(image, max(height, -(-width // THINNEST)), max(width, -(-height // THINNEST)))


class _Kept(torch.nn.Module):
    """An image backbone that answers the same batch from memory when it is asked again."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone, self.position_embedding = backbone, backbone.position_embedding
        self.forget()

    @torch.compiler.disable
    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor) -> tuple[list, list]:
        if self._pixels is not pixel_values:
            self._pixels, self._features = pixel_values, self.backbone(pixel_values, pixel_mask)
        return tuple(list(part) for part in self._features)  # copies: the model appends to what it is given

    def forget(self) -> None:
        self._pixels = self._features = None
