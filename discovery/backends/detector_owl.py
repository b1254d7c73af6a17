"""Images and phrases → boxes by OWL-ViT or OWLv2: image features once per photo, kept for every phrase.

Minderer et al. 2022 (OWL-ViT) and 2023 (OWLv2): every patch of a vision transformer predicts one box and one class
embedding; a phrase scores at a box by the sigmoid of the scaled and shifted cosine of its text embedding with it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from discovery.backends.checkpoint import load_model, load_processor
from discovery.backends.detector import Phrase
from discovery.backends.open_set import Batches, Queries, chunks, sees_place, to_regions
from discovery.config import ComputeConfig, DetectConfig
from discovery.device import device_for
from discovery.images import resize
from discovery.regions import Regions


class OwlModel:
    """The parts of an OWL-ViT or OWLv2 that a detector calls one by one.

    Args:
        name: "owlv2" or "owlvit".
        checkpoint: a folder or a hub id.
        compute: where it runs.
    """

    def __init__(self, name: str, checkpoint: str, compute: ComputeConfig) -> None:
        import transformers

        auto = {"owlv2": transformers.Owlv2ForObjectDetection, "owlvit": transformers.OwlViTForObjectDetection}[name]
        self._pads = name == "owlv2"  # to a square, at the right and at the bottom; OWL-ViT squeezes instead
        self.device = device_for(compute)
        self.net: Any = load_model(auto, checkpoint, compute, types=(name,))
        self._core = getattr(self.net, name)
        if compute.fast and self.device.type == "cuda":
            self._core.vision_model.compile(dynamic=True)  # the whole forward, which is compiled already, is not called
        processor = load_processor(transformers.AutoProcessor, checkpoint, compute)
        self._views, self._tokens = processor.image_processor, processor.tokenizer
        self._side = self.net.config.vision_config.image_size

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Returns (n, patches, d) features, one forward pass of the vision transformer per image."""
        shown = [_fit(image, self._side) for image in images] if self._pads else list(images)
        pixels = self._views(images=shown, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.device, self.net.dtype)
        return self.net.image_embedder(pixel_values=pixels)[0].flatten(1, 2)

    @torch.inference_mode()
    def boxes(self, features: torch.Tensor, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Returns (n, patches, 4) float32 xyxy in pixels of the images; they may reach beyond them."""
        centre, extent = self.net.box_predictor(features, features).float().split(2, dim=-1)
        sizes = [image.shape[1::-1] for image in images]
        span = [(max(size), max(size)) if self._pads else size for size in sizes]
        scale = torch.tensor(span, dtype=torch.float32, device=self.device).repeat(1, 2)[:, None]
        return torch.cat([centre - extent / 2, centre + extent / 2], dim=-1) * scale

    @torch.inference_mode()
    def scores(self, features: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Returns (n, patches, q) float32 scores in [0, 1] of (q, d) query embeddings, or of (n, q, d)."""
        queries = queries.expand(len(features), *queries.shape[-2:]).to(features.dtype)
        return self.net.class_predictor(features, queries)[0].float().sigmoid()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Returns (n, d) text embeddings; a text beyond the model's context is cut."""
        length = self.net.config.text_config.max_position_embeddings
        tokens = self._tokens(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        pooled = self._core.text_model(**{k: tokens[k].to(self.device) for k in ("input_ids", "attention_mask")})
        return self._core.text_projection(pooled.pooler_output)

    @torch.inference_mode()
    def embed_examples(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Returns (n, d) class embeddings of the most box-like patch of each example; OWLv2 alone has objectness."""
        features = self.features(images)
        best = self.net.objectness_predictor(features).argmax(dim=1)
        embeddings = self.net.class_predictor(features)[1]
        return embeddings[torch.arange(len(best), device=best.device), best]


class OwlDetector:
    """Open-set detection by text with OWL-ViT or OWLv2.

    Args:
        name: "owlv2" or "owlvit".
        checkpoint: a folder or a hub id.
        config: the prompt, the floor, and how much is done at once.
        compute: where it runs.
    """

    def __init__(self, name: str, checkpoint: str, config: DetectConfig, compute: ComputeConfig) -> None:
        self._model, self._config = OwlModel(name, checkpoint, compute), config
        self._batches = Batches(min(config.images_per_pass, compute.batch_size))
        self._queries = Queries(self._embed, config.phrases_per_pass)

    def sees(self, phrase: Phrase) -> bool:
        """Tells whether the phrase has a place; free text is all it needs."""
        return sees_place(phrase)

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Phrase]) -> Regions:
        """See `Detector.detect`."""
        return self._queries.find(images, phrases, self._batches, self._find)

    def _find(self, images: Sequence[np.ndarray], queries: torch.Tensor) -> Regions:
        features = self._model.features(images)
        boxes, sizes = self._model.boxes(features, images), [image.shape[:2] for image in images]
        parts = []
        for part in chunks(len(queries), self._config.phrases_per_pass):
            found = to_regions(self._model.scores(features, queries[part]), boxes, sizes, self._config)
            parts.append(Regions(found.image, found.phrase + part.start, found.xyxy, found.score))
        return Regions.concat(parts)

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        return self._model.embed_texts([self._config.prompt.replace("{}", text) for text in texts])


def _fit(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes an image so that its longer side is `side`, before it is padded: a long thin photo stays small."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
