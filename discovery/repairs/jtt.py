"""Features, and no groups → a last layer fitted anew with the photos that a first fit gets wrong weighted up.

Just train twice (Liu et al. 2021): the yardstick of what is won without knowing any cue. The errors are those on photos
that the first fit was not made on, since a layer of a thousand features makes none on its own.
"""

from dataclasses import replace

import numpy as np

from discovery.cue_groups import Groups
from discovery.repairs.linear_fit import Penalty, Scaled, fit_linear
from discovery.repairs.reweight import fit_weighted
from discovery.repairs.task import Repaired, Task, out_of_fold


def repair(task: Task) -> Repaired:
    """Fits the layer; see `repairs.task.Repair`."""
    of = np.unique(task.label, return_inverse=True)[1]
    present = np.unique(task.label)
    classes = Groups(of, tuple(task.classes[y] for y in present), present, {})
    blind = replace(task, groups=classes)  # nothing of the cues may choose a setting
    scaled = Scaled.of(task.features())
    penalty = Penalty("l2", min(task.config.inverse_regularisation))

    def first(kept: np.ndarray):
        rows = np.flatnonzero(kept)
        label, ones = task.label[rows], np.ones(len(rows))
        return scaled.head(fit_linear(scaled.rows(rows), label, ones, len(task.classes), penalty, None), task.classes)

    wrong = ~out_of_fold(blind, first)
    made = fit_weighted(blind, np.where(wrong, task.config.jtt_factor, 1.0))
    return replace(made, facts=made.facts | {"first_fit_errors": int(wrong.sum())})
