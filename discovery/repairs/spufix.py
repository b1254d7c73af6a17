"""Features and presences → what a class's cues say for it is taken off its logit, and what they say against it stays.

SpuFix (Neuhaus et al. 2023) subtracts max(0, β) from the logit of a class, β what a component of its features adds to
it. Its components are principal ones, looked through by people; here the subspace is what tells the class's cues within
classes (`repairs.project`), and β is counted from photos of the class without them. No training.
"""

import numpy as np

from discovery.backends.roles import Head
from discovery.errors import DataError
from discovery.repairs.project import eraser
from discovery.repairs.task import Repaired, Task


def repair(task: Task) -> Repaired:
    """Gates the layer; see `repairs.task.Repair`."""
    features, own, cue_ids = task.features().astype(np.float64), task.head(), task.cue_ids
    gate = np.zeros((len(own.classes), features.shape[1] + 1))
    for (label,), cues in task.cues.group_by("label", maintain_order=True):
        c, shown = task.classes.index(label), task.shown[:, [cue_ids.index(cue_id) for cue_id in cues["cue_id"]]]
        factors, _ = eraser(features, shown.astype(np.float64), task.label)
        if not factors.shape[1]:
            continue
        out, into = factors.transpose(2, 0, 1)
        mine = task.label == c
        without = mine & ~shown.any(axis=1)
        start = features[without if without.sum() >= task.config.min_group else mine].mean(axis=0)
        weights = into @ (out.T @ own.coef[c])
        gate[c] = np.append(weights, -weights @ start)
    gated = np.flatnonzero(gate.any(axis=1))
    if not len(gated):
        raise DataError(
            "no direction to take off: each chosen cue is shown by all or by none of the photos of every class that "
            "are fitted on; add photos that break the tie"
        )
    speaks = np.maximum(0, features @ gate[:, :-1].T + gate[:, -1]).mean(axis=0)
    facts = {"taken_off": {own.classes[c]: round(float(speaks[c]), 4) for c in gated}}
    return Repaired(Head(own.classes, own.coef, own.intercept, gate), facts=facts)
