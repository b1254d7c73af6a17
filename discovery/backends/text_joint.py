"""The text tower of CLIP or SigLIP as a text encoder: phrases → unit-norm embeddings, less what all phrases share."""

from collections.abc import Sequence

import numpy as np

from discovery.backends.joint import load_joint
from discovery.config import ComputeConfig


class JointText:
    """Phrases as a CLIP-type model understands them, for naming and merging.

    The phrases of such a model lie in a narrow cone: any two are alike. So the mean of the written vocabulary is taken
    away before the norm, and a cosine again tells synonyms from strangers. The thresholds of similarity in the
    configuration were set with MiniLM.

    Args:
        family: clip or siglip.
        checkpoint: a local folder or a hub id; None for the family's most common one.
        compute: where it runs.
    """

    def __init__(self, family: str, checkpoint: str | None, compute: ComputeConfig) -> None:
        from discovery.vocabulary import read_vocabulary

        self._space = load_joint(family, checkpoint, compute)
        self._centre = self._space.text([phrase.text for phrase in read_vocabulary().phrases]).mean(axis=0)

    def encode(self, phrases: Sequence[str]) -> np.ndarray:
        """Returns (n, d) float32 unit-norm embeddings, in order."""
        apart = self._space.text(phrases) - self._centre
        return apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12)
