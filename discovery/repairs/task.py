"""What a repair is given, what it gives back, and how its choices are judged on photos that it was not fitted on."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from discovery.backends.roles import Classifier, Head
from discovery.config import RetrainConfig
from discovery.cue_groups import Groups
from discovery.run import Run

FOLDS = 3


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


def group_accuracy(right: np.ndarray, groups: Groups) -> np.ndarray:
    """Returns (groups,) shares of right photos; NaN for a group without one."""
    hits = np.bincount(groups.of, weights=right, minlength=len(groups.names))
    with np.errstate(invalid="ignore"):
        return hits / groups.sizes


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


def merit(right: np.ndarray, groups: Groups) -> tuple[float, float]:
    """Returns what choices are ordered by: worst-group accuracy, then the mean over groups."""
    accuracy = group_accuracy(right, groups)
    return float(np.nanmin(accuracy)), float(np.nanmean(accuracy))
