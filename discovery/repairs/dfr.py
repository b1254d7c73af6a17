"""Features and groups → a last layer fitted anew on group-balanced draws: deep feature reweighting.

Kirichenko, Izmailov & Wilson (2023), section 4: standardised features, L1 logistic regression on data in which every
group has as many photos, its strength chosen by worst-group accuracy on held-out photos, and the mean of several fits.
"""

import numpy as np

from discovery.backends.roles import Head
from discovery.repairs.linear_fit import Penalty, Scaled, fit_linear
from discovery.repairs.task import Repaired, Task, choose_strength, need_groups


def repair(task: Task) -> Repaired:
    """Fits the layer; see `repairs.task.Repair`."""
    need_groups(task)
    scaled = Scaled.of(task.features())

    def path(kept: np.ndarray, grid: list[float]) -> list[Head]:
        rows, heads, weights = balanced_draw(task.groups.of, kept, task.rng("draws")), [], None
        for inverse in grid:
            weights = _fitted(task, scaled, rows, inverse, weights)
            heads.append(scaled.head(weights, task.classes))
        return heads

    best, told = choose_strength(task, path)
    rng, everyone, fits = task.rng("draws"), np.ones(len(task.label), bool), []
    for _ in range(task.config.fits):
        rows = balanced_draw(task.groups.of, everyone, rng)
        fits.append(_fitted(task, scaled, rows, best, fits[-1] if fits else None))
    head = scaled.head(np.mean(fits, axis=0), task.classes)
    return Repaired(head, facts={"inverse_regularisation": best, "held_out": told})


def _fitted(task: Task, scaled: Scaled, rows: np.ndarray, inverse: float, start: np.ndarray | None) -> np.ndarray:
    penalty, ones = Penalty("l1", inverse), np.ones(len(rows))
    return fit_linear(scaled.rows(rows), task.label[rows], ones, len(task.classes), penalty, start)


def balanced_draw(group: np.ndarray, kept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns rows that hold each group equally often: as often as the group of median size has photos.

    A larger group gives a different part of its photos to each draw; a smaller one gives each of its photos several
    times. (The paper draws as many as the smallest group has, which leaves next to nothing where that is five photos.)
    """
    members = [np.flatnonzero(kept & (group == g)) for g in np.unique(group[kept])]
    size = int(np.median([len(rows) for rows in members]))
    return np.concatenate([np.resize(rng.permutation(rows), size) for rows in members])
