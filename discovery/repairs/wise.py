"""A model and its repair → the layer between the two that is best on held-out photos, and the curve along the way.

Weight interpolation (WiSE-FT, Wortsman et al. 2022, equation 1): (1 − α) · own + α · repaired.
"""

import numpy as np

from discovery.backends.roles import Head
from discovery.errors import ConfigError
from discovery.repairs import dfr, groupdro, jtt, project, reweight
from discovery.repairs.task import FOLDS, Repaired, Task, merit, part_of

BETWEEN = {
    "dfr": dfr.repair,
    "reweight": reweight.repair,
    "groupdro": groupdro.repair,
    "jtt": jtt.repair,
    "project": project.repair,
}
ALPHAS = tuple(np.round(np.linspace(0, 1, 11), 1).tolist())


def repair(task: Task) -> Repaired:
    """Interpolates; see `repairs.task.Repair`."""
    name = task.config.wise_with
    if name not in BETWEEN:
        raise ConfigError(f"retrain.wise_with wants one of {', '.join(BETWEEN)}, got {name!r}")
    features, folds, own = task.features(), task.folds(), task.head()
    right = np.zeros((len(ALPHAS), len(task.label)), bool)
    for fold in range(FOLDS):
        held = folds == fold
        task.progress(fold, FOLDS + 1)
        part = BETWEEN[name](part_of(task, ~held, f"fold-{fold}")).head
        for row, alpha in enumerate(ALPHAS):
            right[row, held] = between(own, part, alpha).logits(features[held]).argmax(axis=1) == task.label[held]
    curve = [(alpha, *merit(right[row], task.groups)) for row, alpha in enumerate(ALPHAS)]
    best = max(curve, key=lambda point: (point[1], point[2], -point[0]))[0]
    made = BETWEEN[name](task)
    shown = [dict(zip(("alpha", "worst_group", "mean_of_groups"), point, strict=True)) for point in curve]
    return Repaired(
        between(own, made.head, best), facts={"with": name, "alpha": best, "curve": shown, name: made.facts}
    )


def between(own: Head, other: Head, alpha: float) -> Head:
    """Returns the layer a share `alpha` of the way from one to the other."""
    coef = (1 - alpha) * own.coef + alpha * other.coef
    return Head(own.classes, coef, (1 - alpha) * own.intercept + alpha * other.intercept)
