"""CLIP or SigLIP asked by prompts → the model under audit: a photo belongs to the class whose prompts it is nearest."""

from collections.abc import Sequence

import numpy as np

from discovery.backends.checkpoint import read_choice
from discovery.backends.joint import CHECKPOINTS, load_joint
from discovery.backends.roles import Head, check_probs, softmax
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import ConfigError


class ZeroShotClassifier:
    """A zero-shot classifier as in Radford et al. (2021, section 3.1), and as RaVL audits; see `roles.Featured`.

    A class is the mean of its filled templates' unit embeddings, made unit again; probabilities are the softmax of
    cosines × the model's own scale, for SigLIP too (its sigmoids ask one class at a time).
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, head: Head) -> None:
        choice = read_choice(config.path or "")
        if choice.name not in CHECKPOINTS:
            raise ConfigError(
                f"model.path of a zero-shot model is clip:FOLDER_OR_ID or siglip:FOLDER_OR_ID, got {config.path!r}"
            )
        unknown = sorted(set(config.prompts) - set(head.classes))
        if unknown:
            raise ConfigError(f"model.prompts names no class: {', '.join(unknown[:5])}; see model.classes")
        self.classes = head.classes
        self.space = load_joint(choice.name, choice.checkpoint, compute)
        self.view, self.field = self.space.sight.view, self.space.sight.field
        self._text = np.stack([self._class(prompts_of(config, name)) for name in head.classes]).astype(np.float64)

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        return check_probs(softmax(self.linear().logits(self.features(views))), len(views), self.classes)

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Featured.features`: unit-norm images in the joint space."""
        if not len(views):
            return np.empty((0, self.space.width), np.float32)
        found = self.space.images(views)[1].float()
        return (found / found.norm(dim=1, keepdim=True).clamp_min(1e-12)).cpu().numpy()

    def linear(self) -> Head:
        """See `Featured.linear`."""
        return Head(self.classes, self.space.scale * self._text, np.zeros(len(self.classes)))

    def _class(self, prompts: Sequence[str]) -> np.ndarray:
        mean = self.space.text(prompts).mean(axis=0)
        return mean / max(np.linalg.norm(mean), 1e-12)


def prompts_of(config: ModelConfig, name: str) -> list[str]:
    """Returns the texts of a class: each of its prompts, or its name, in each template."""
    words = config.prompts.get(name) or (name.replace("_", " "),)
    return [template.replace("{}", word) for word in words for template in config.templates]
