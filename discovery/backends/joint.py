"""A CLIP or SigLIP checkpoint → images, their patches, and phrases in one space."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from discovery.backends.checkpoint import load_model, load_processor
from discovery.backends.preprocessing import Preprocessing
from discovery.config import ComputeConfig
from discovery.errors import BackendError

if TYPE_CHECKING:
    import torch

CHECKPOINTS = {"clip": "openai/clip-vit-base-patch32", "siglip": "google/siglip-base-patch16-224"}
"""What each family is read from when its setting names no checkpoint."""
TEXT_BATCH = 256


class JointSpace:
    """An image tower and a text tower that end in one space.

    Args:
        family: clip or siglip.
        checkpoint: a local folder or a hub id; None for the family's most common one.
        compute: where it runs.

    Attributes:
        model: of transformers.
        sight: what the checkpoint's own image processor does.
        width: d, of the space.
        scale: what the model multiplies cosines by before its softmax or sigmoid.
    """

    def __init__(self, family: str, checkpoint: str | None, compute: ComputeConfig) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        source = checkpoint or CHECKPOINTS[family]
        self.model = load_model(AutoModel, source, compute, types=(family,))
        self.sight = Preprocessing(load_processor(AutoImageProcessor, source, compute), source)
        self._tokenizer = load_processor(AutoTokenizer, source, compute)
        self._family, self._length = family, self.model.config.text_config.max_position_embeddings
        self.patch_px = self.model.config.vision_config.patch_size
        self.scale = float(self.model.logit_scale.float().exp())
        if family == "siglip" and not self.model.vision_model.use_head:
            raise BackendError(f"{source} has no pooling head: its images and phrases share no space")
        self._known: dict[str, np.ndarray] = {}
        self.width = len(self.text(["a photo"])[0])

    def images(self, views: Sequence[np.ndarray]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Returns (n, tokens, hidden) states of views, and (n, d) images in the joint space; neither normalised."""
        import torch

        with torch.inference_mode():
            batch = self.sight.tensor(views, self.model.device).to(self.model.dtype)
            out = self.model.get_image_features(pixel_values=batch)
        return out.last_hidden_state, out.pooler_output

    def project(self, states: "torch.Tensor") -> "torch.Tensor":
        """Takes (m, hidden) states of single patches, or means of several, into the joint space, (m, d).

        Neither model was trained to end anywhere but at the whole image, so this is an approximation. CLIP: a patch
        goes the way of the class token, through the last norm and the projection. SigLIP: the pooling head attends to
        that patch alone.
        """
        if self._family == "clip":
            return self.model.visual_projection(self.model.vision_model.post_layernorm(states))
        return self.model.vision_model.head(states[:, None])

    def text(self, phrases: Sequence[str]) -> np.ndarray:
        """Returns (n, d) float32 unit-norm phrases in the joint space; one that is too long is cut."""
        new = sorted(set(phrases) - self._known.keys())
        for start in range(0, len(new), TEXT_BATCH):
            chunk = new[start : start + TEXT_BATCH]
            self._known.update(zip(chunk, self._embed(chunk), strict=True))
        return np.stack([self._known[p] for p in phrases]) if len(phrases) else np.empty((0, self.width), np.float32)

    def _embed(self, phrases: list[str]) -> np.ndarray:
        import torch

        # SigLIP was trained on texts padded to their full length, and has no mask; CLIP masks its padding.
        padding = "max_length" if self._family == "siglip" else True
        tokens = self._tokenizer(
            phrases, padding=padding, truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self.model.device)
        names = ("input_ids", "attention_mask") if self._family == "clip" else ("input_ids",)
        with torch.inference_mode():
            out = self.model.get_text_features(**{name: tokens[name] for name in names})
        return torch.nn.functional.normalize(out.pooler_output.float(), dim=1).cpu().numpy()


@lru_cache(maxsize=2)
def load_joint(family: str, checkpoint: str | None, compute: ComputeConfig) -> JointSpace:
    """Loads a joint space once per process: encoder, text and zero-shot classifier of one checkpoint share it.

    Raises:
        BackendError: see `load_model`.
    """
    return JointSpace(family, checkpoint, compute)
