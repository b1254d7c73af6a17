"""Features and groups → a last layer fitted anew with each photo weighted by the inverse of its group's frequency."""

import numpy as np

from discovery.backends.roles import Head
from discovery.cue_groups import balanced_weights
from discovery.repairs.linear_fit import Penalty, Scaled, fit_linear
from discovery.repairs.task import Repaired, Task, choose_strength, need_groups


def repair(task: Task) -> Repaired:
    """Fits the layer; see `repairs.task.Repair`."""
    need_groups(task)
    return fit_weighted(task, balanced_weights(task.groups))


def fit_weighted(task: Task, weight: np.ndarray) -> Repaired:
    """Fits the layer with (n,) weights, the strength of its L2 penalty chosen on held-out photos."""
    scaled, n_classes = Scaled.of(task.features()), len(task.classes)

    def path(kept: np.ndarray, grid: list[float]) -> list[Head]:
        rows, heads, weights = np.flatnonzero(kept), [], None
        part = scaled.rows(rows)
        for inverse in grid:
            penalty = Penalty("l2", inverse)
            weights = fit_linear(part, task.label[rows], weight[rows], n_classes, penalty, weights)
            heads.append(scaled.head(weights, task.classes))
        return heads

    best, told = choose_strength(task, path)
    (head,) = path(np.ones(len(task.label), bool), [best])
    return Repaired(head, facts={"inverse_regularisation": best, "held_out": told})
