"""Features of photos and of changed copies → a last layer fitted on both: what flips is replaced, the cue moved about.

SS-CA (arXiv 2511.12100, from its abstract): the smallest set of regions that flips the answer is replaced by natural
background, and the model is trained on both. The cue-level copies, and equal weight of copies and originals, are ours.
"""

import numpy as np

from discovery.backends.roles import Head
from discovery.repairs.altered import Alterations, Copies, alter
from discovery.repairs.linear_fit import Penalty, Scaled, fit_linear
from discovery.repairs.task import Repaired, Task, merit, out_of_fold


def repair(task: Task) -> Repaired:
    """Fits the layer; see `repairs.task.Repair`."""
    made = Alterations(task)
    copies = Copies.of(alter(task, made, task.config.augment_photos), task, made)
    joint = _Joint(task, copies)
    scores = {}
    for inverse in task.config.inverse_regularisation:
        scores[inverse] = merit(out_of_fold(task, lambda kept, c=inverse: joint.fit(kept, c)), task.groups)
    best = max(scores, key=lambda inverse: (*scores[inverse], -inverse))
    facts = {"inverse_regularisation": best, "copies": dict(sorted(made.counts.items()))}
    facts["copies"]["forwards"] = made.counts["forwards"] + len(copies.row)
    return Repaired(joint.fit(np.ones(len(task.label), bool), best), facts=facts)


class _Joint:
    """Originals and copies, standardised together; copies of a class weigh as much as its originals."""

    def __init__(self, task: Task, copies: Copies) -> None:
        self._row, self._source = copies.row, copies.source
        self._label = np.concatenate([task.label, task.label[self._row]])
        self._scaled = Scaled.of(np.concatenate([task.features(), copies.features]))
        self._classes = task.classes

    def fit(self, kept: np.ndarray, inverse: float) -> Head:
        """Fits on the (n,) kept photos and on copies that hold nothing of any other."""
        n = len(kept)
        used = np.flatnonzero(np.concatenate([kept, kept[self._row] & kept[self._source]]))
        label, copied = self._label[used], used >= n
        weight = np.ones(len(used))
        for c in np.unique(label):
            mine = copied & (label == c)
            weight[mine] = (~copied & (label == c)).sum() / max(1, mine.sum())
        penalty = Penalty("l2", inverse)
        weights = fit_linear(self._scaled.rows(used), label, weight, len(self._classes), penalty, None)
        return self._scaled.head(weights, self._classes)
