"""View + regions → what the model says of the view without some of its regions, each set asked once and counted."""

from collections.abc import Iterable, Sequence

import numpy as np

from discovery.backends.classifier import Classifier
from discovery.fills import FILLS, measure_grain

Regions = frozenset[int]


class MaskedViews:
    """One view and its regions; answers come from the model in batches and are kept.

    Args:
        view: (h, w, 3) uint8.
        masks: (m, h, w) bool, disjoint.
        classifier: the model.
        fill: the name of a fill, as in `FILLS`.
        batch_size: views per forward pass.

    Attributes:
        fill: the name of the fill.
        n_forwards: views that the model has seen so far.
    """

    def __init__(
        self, view: np.ndarray, masks: np.ndarray, classifier: Classifier, *, fill: str = "blur", batch_size: int = 32
    ) -> None:
        self.view, self.masks = view, masks
        self.fill = fill
        self._classifier, self._paint, self._batch_size = classifier, FILLS[fill], batch_size
        self._grain = measure_grain(view)
        self._known: dict[Regions, np.ndarray] = {}
        self.n_forwards = 0

    def __len__(self) -> int:
        return len(self.masks)

    def without(self, removed: Sequence[Iterable[int]]) -> np.ndarray:
        """Returns (n, c) float64 probabilities of the view without each of n sets of regions."""
        wanted = [frozenset(part) for part in removed]
        missing = [part for part in dict.fromkeys(wanted) if part not in self._known]
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            answers = self._classifier.predict([self.draw(part) for part in batch])
            self._known |= dict(zip(batch, answers, strict=True))
        self.n_forwards += len(missing)
        return np.array([self._known[part] for part in wanted])

    def only(self, kept: Sequence[Iterable[int]]) -> np.ndarray:
        """Returns (n, c) float64 probabilities of the view with each of n sets of regions and nothing else."""
        every = range(len(self.masks))
        return self.without([set(every) - set(part) for part in kept])

    def draw(self, removed: Iterable[int]) -> np.ndarray:
        """Returns the (h, w, 3) uint8 view without a set of regions."""
        chosen = sorted(removed)
        if not chosen:
            return self.view
        return self._paint(self.view, self.masks[chosen].any(axis=0), grain=self._grain)
