"""Features and groups → a last layer fitted anew with each photo weighted by the inverse of its group's frequency."""

import numpy as np

from discovery.cue_groups import balanced_weights
from discovery.repairs.linear_fit import Penalty, Scaled, fit_linear
from discovery.repairs.task import Repaired, Task, merit, out_of_fold


def repair(task: Task) -> Repaired:
    """Fits the layer; see `repairs.task.Repair`."""
    return fit_weighted(task, balanced_weights(task.groups))


def fit_weighted(task: Task, weight: np.ndarray) -> Repaired:
    """Fits the layer with (n,) weights, the strength of its L2 penalty chosen on held-out photos."""
    scaled = Scaled.of(task.features())

    def fitted(kept: np.ndarray, inverse: float):
        rows = np.flatnonzero(kept)
        penalty = Penalty("l2", inverse)
        n_classes = len(task.classes)
        weights = fit_linear(scaled.rows(rows), task.label[rows], weight[rows], n_classes, penalty, None)
        return scaled.head(weights, task.classes)

    scores, grid = {}, task.config.inverse_regularisation
    for done, inverse in enumerate(grid):
        task.progress(done, len(grid) + 1)
        scores[inverse] = merit(out_of_fold(task, lambda kept, c=inverse: fitted(kept, c)), task.groups)
    best = max(scores, key=lambda inverse: (*scores[inverse], -inverse))
    chosen = [{"C": c, "worst_group": worst, "mean_of_groups": mean} for c, (worst, mean) in scores.items()]
    everyone = np.ones(len(task.label), bool)
    return Repaired(fitted(everyone, best), facts={"inverse_regularisation": best, "held_out": chosen})
