"""Features and groups → a last layer fitted anew on group-balanced draws: deep feature reweighting.

Kirichenko, Izmailov & Wilson (2023), section 4: standardised features, L1 logistic regression on data in which every
group has as many photos, its strength chosen by worst-group accuracy on held-out photos, and the mean of several fits.
"""

import numpy as np

from discovery.repairs.linear_fit import Penalty, Scaled, fit_linear
from discovery.repairs.task import Repaired, Task, merit, out_of_fold


def repair(task: Task) -> Repaired:
    """Fits the layer; see `repairs.task.Repair`."""
    scaled = Scaled.of(task.features())
    scores, grid = {}, task.config.inverse_regularisation
    for done, inverse in enumerate(grid):
        task.progress(done, len(grid) + 1)
        right = out_of_fold(task, lambda kept, c=inverse: _fitted(task, scaled, kept, c, fits=1))
        scores[inverse] = merit(right, task.groups)
    best = max(scores, key=lambda inverse: (*scores[inverse], -inverse))
    head = _fitted(task, scaled, np.ones(len(task.label), bool), best, fits=task.config.fits)
    chosen = [{"C": c, "worst_group": worst, "mean_of_groups": mean} for c, (worst, mean) in scores.items()]
    return Repaired(head, facts={"inverse_regularisation": best, "held_out": chosen})


def _fitted(task: Task, scaled: Scaled, kept: np.ndarray, inverse: float, *, fits: int):
    rng, weights = task.rng("draws"), []
    for _ in range(fits):
        rows = balanced_draw(task.groups.of, kept, rng)
        ones = np.ones(len(rows))
        penalty = Penalty("l1", inverse)
        start = weights[-1] if weights else None
        part = scaled.rows(rows)
        weights.append(fit_linear(part, task.label[rows], ones, len(task.classes), penalty, start))
    return scaled.head(np.mean(weights, axis=0), task.classes)


def balanced_draw(group: np.ndarray, kept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns rows that hold each group equally often: as often as the group of median size has photos.

    A larger group gives a different part of its photos to each draw; a smaller one gives each of its photos several
    times. (The paper draws as many as the smallest group has, which leaves next to nothing where that is five photos.)
    """
    members = [np.flatnonzero(kept & (group == g)) for g in np.unique(group[kept])]
    size = int(np.median([len(rows) for rows in members]))
    return np.concatenate([_spread(rng.permutation(rows), size) for rows in members])


def _spread(rows: np.ndarray, size: int) -> np.ndarray:
    return np.resize(rows, size)
