"""What a repair is given, what it gives back, and how its choices are judged on photos that it was not fitted on."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from discovery.backends.roles import Classifier, Head
from discovery.config import RetrainConfig
from discovery.cue_groups import Groups
from discovery.errors import DataError
from discovery.run import Run

FOLDS = 3
SHRUNK_BY = 5
"""Photos that a group's accuracy counts for less when choices are made by it (see `merit`)."""


@dataclass(frozen=True)
class Task:
    """A model to be repaired, the cues that it leans on, and photos that are not audited.

    Attributes:
        run: the finished run; only read from.
        config: settings of the repair.
        folder: of this repair alone, for checkpoints and a repaired model's files.
        model: as it is.
        cues: the chosen cues: label, cue_id, phrase, kind.
        sample_id: (n,) str, the photos that may be fitted on.
        label: (n,) int, number of each photo's class in the model's output.
        shown: (n, k) bool, presences of the k cues of `cue_ids`.
        groups: of the same photos.
        features: gives (n, d) float32, what the model's last layer sees of them; kept after the first call.
        head: gives the model's last layer.
        progress: called as `progress(done, total)`.
    """

    run: Run
    config: RetrainConfig
    folder: Path
    model: Classifier
    cues: pl.DataFrame
    sample_id: np.ndarray
    label: np.ndarray
    shown: np.ndarray
    groups: Groups
    features: Callable[[], np.ndarray]
    head: Callable[[], Head]
    progress: Callable[[int, int], None] = lambda *_: None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.classes

    @property
    def cue_ids(self) -> list[str]:
        """Returns the k different cues, in the order of the columns of `shown`."""
        return self.cues["cue_id"].unique(maintain_order=True).to_list()

    def rng(self, name: str) -> np.random.Generator:
        """Returns the random numbers of one part of a repair: the same whatever ran before it."""
        return np.random.default_rng([self.run.config.seed, zlib.crc32(name.encode())])

    def folds(self) -> np.ndarray:
        """Returns (n,) int in [0, FOLDS): each group is spread evenly over the folds."""
        rng, folds = self.rng("folds"), np.empty(len(self.label), np.int64)
        for group in range(len(self.groups.names)):
            rows = np.flatnonzero(self.groups.of == group)
            folds[rng.permutation(rows)] = (np.arange(len(rows)) + group) % FOLDS
        return folds


@dataclass(frozen=True)
class Repaired:
    """What a repair changed.

    Attributes:
        head: a last layer in place of the model's own; None when the model was changed otherwise.
        model: settings of `model.*` under which the repaired model is loaded; empty when they are as before.
        facts: what was chosen and measured on the way, for the record; as JSON can hold it.
    """

    head: Head | None = None
    model: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Repair(Protocol):
    """One way to make a model lean less on its cues."""

    def __call__(self, task: Task) -> Repaired:
        """Repairs the model.

        Raises:
            BackendError: the model is not of a kind that it can repair, or it diverged.
            DataError: the photos do not allow it.
        """


def need_groups(task: Task) -> None:
    """Raises DataError when each class is one group: there is nothing to balance."""
    if len(task.groups.names) > len(np.unique(task.label)):
        return
    phrases = ", ".join(map(repr, task.cues["phrase"].unique(maintain_order=True).head(3)))
    raise DataError(
        f"no group to balance: in the photos to fit on, {phrases} is shown by all or by none of a class (but for fewer "
        f"than retrain.min_group = {task.config.min_group}); add photos that break the tie, or take --method project"
    )


def group_accuracy(right: np.ndarray, groups: Groups) -> np.ndarray:
    """Returns (groups,) shares of right photos; NaN for a group without one."""
    hits = np.bincount(groups.of, weights=right, minlength=len(groups.names))
    with np.errstate(invalid="ignore"):
        return hits / groups.sizes


def part_of(task: Task, kept: np.ndarray, name: str) -> Task:
    """Returns the task with some of its photos; `name` is of its folder."""
    features = task.features()[kept]
    return replace(
        task,
        folder=task.folder / name,
        sample_id=task.sample_id[kept],
        label=task.label[kept],
        shown=task.shown[kept],
        groups=replace(task.groups, of=task.groups.of[kept]),
        features=lambda: features,
        progress=lambda *_: None,
    )


def out_of_fold(task: Task, fit: Callable[[np.ndarray], Head]) -> np.ndarray:
    """Returns (n,) bool: whether each photo is right by a layer that was fitted on the other folds.

    Args:
        task: gives the photos.
        fit: (n,) bool, the photos to be fitted on → a layer.
    """
    folds, features = task.folds(), task.features()
    right = np.zeros(len(task.label), bool)
    for fold in range(FOLDS):
        held = folds == fold
        if held.any():
            right[held] = fit(~held).logits(features[held]).argmax(axis=1) == task.label[held]
    return right


def choose_strength(task: Task, path: Callable[[np.ndarray, list[float]], list[Head]]) -> tuple[float, list[dict]]:
    """Returns the C whose layers are best on the folds they were not fitted on, and how all did.

    Args:
        task: gives photos, groups and the values of C.
        path: (n,) bool, the photos to be fitted on, and values of C, the smallest first → a layer for each.
    """
    folds, features, grid = task.folds(), task.features(), sorted(task.config.inverse_regularisation)
    if len(grid) == 1:
        return grid[0], []
    right = np.zeros((len(grid), len(task.label)), bool)
    for fold in range(FOLDS):
        task.progress(fold, FOLDS + 1)
        held = folds == fold
        if held.any():
            for row, head in enumerate(path(~held, grid)):
                right[row, held] = head.logits(features[held]).argmax(axis=1) == task.label[held]
    scores = [merit(row, task.groups) for row in right]
    best = max(range(len(grid)), key=lambda row: (*scores[row], -row))
    told = [
        {"C": c, "worst_group": worst, "mean_of_groups": mean} for c, (worst, mean) in zip(grid, scores, strict=True)
    ]
    return grid[best], told


def merit(right: np.ndarray, groups: Groups) -> tuple[float, float]:
    """Returns what choices are ordered by: worst-group accuracy, then the mean over groups.

    Each group's accuracy is first drawn towards that mean as if by `SHRUNK_BY` more photos: the worst of many groups of
    four photos is else the one that had bad luck.
    """
    accuracy, sizes = group_accuracy(right, groups), groups.sizes
    mean = float(np.nanmean(accuracy))
    drawn = (np.nan_to_num(accuracy) * sizes + SHRUNK_BY * mean) / (sizes + SHRUNK_BY)
    return float(drawn[sizes > 0].min()), mean
