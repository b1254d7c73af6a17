"""A finished run whose planted cues are known → what a last layer gets right on its judged photos, and leans on."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl

from discovery import ablate
from discovery.backends.roles import Featured, Head, softmax
from discovery.interventions import Pair
from discovery.repairs.menu import load_repair
from discovery.repairs.task import Task, group_accuracy
from discovery.retrain_audit import CHOSEN, NULL, WORSE, Judged, audit
from discovery.retrain_job import PAIR, Job
from discovery.retrain_steps import photo_features_of
from discovery.run import frame_of
from discovery.trials import Trial, run_trials
from tests.benchmarks.repair_arena import Arena
from tests.benchmarks.repair_spuco import spuco_groupdro

WORST_OF = 8
"""Judged photos that a group must have to be the worst."""
L1_GRID = (0.03,)
"""Values of C for `dfr` on planted sets: its penalty is another one than that of the rest."""
KEY = ("label", "cue_id", "sample_id", "way")


def repaired(method: str, groups: str, task: Task, job: Job, arena: Arena | None) -> Head:
    """Returns the layer that a repair makes with random, found or true groups, or random, found or planted cues."""
    told = _with_cues if method == "counterfactual" else _with_groups
    task = told(task, groups, job, arena)
    if method == "dfr" and arena:
        task = replace(task, config=task.config.model_copy(update={"inverse_regularisation": L1_GRID}))
    return spuco_groupdro(task) if method == "spuco groupdro" else load_repair(method)(task).head


def _with_cues(task: Task, which: str, job: Job, arena: Arena | None) -> Task:
    """Returns the task with the planted cues alone (true), or with as many other candidates (random)."""
    if which == "discovered":
        return task
    cues = task.cues
    if which == "true":
        cues = cues.filter(pl.Series([pair in arena.planted for pair in cues.select(PAIR).iter_rows()], dtype=bool))
    else:
        spared = {cue_id for _, cue_id in arena.planted} if arena else set(task.cue_ids)
        names = job.before.read("presences", columns=["cue_id", "phrase", "kind"]).unique(maintain_order=True)
        names = names.filter(~pl.col("cue_id").is_in(list(spared)) & (pl.col("kind") != "border"))
        every = pl.DataFrame({"label": task.classes}).join(names, how="cross")
        cues = every.sample(min(len(cues), len(every)), seed=job.before.config.seed).select(cues.columns)
    ids = cues["cue_id"].unique(maintain_order=True).to_list()
    return replace(task, cues=cues, shown=job.presences(pl.Series(task.sample_id), ids))


def _with_groups(task: Task, groups: str, job: Job, arena: Arena | None) -> Task:
    """Returns the task with the planted cues in place of the found ones (true), or swapped within classes (random)."""
    if groups == "true":
        return arena.told(task)
    if groups != "random":
        return task
    rng, to = np.random.default_rng([job.before.config.seed, 3]), np.arange(len(task.label))
    for y in np.unique(task.label):
        to[task.label == y] = rng.permutation(to[task.label == y])
    return replace(task, shown=task.shown[to], groups=replace(task.groups, of=task.groups.of[to]))


class Tape:
    """The trials of chosen and null cues, with features in place of views: any other last layer is audited at once.

    Args:
        job: the repair.
        pairs: the class–cue pairs that are tried.
        model: whose features are kept; the trials are those that a repair's own audit would carry out.
    """

    def __init__(self, job: Job, pairs: pl.DataFrame, model: Featured) -> None:
        tried = job.before.read("effects").join(pairs, on=PAIR, how="semi")
        self._classes, self._trials, parts = model.classes, [], []
        n = 0

        def record(trials: Iterator[Trial], *_) -> Iterator[dict]:
            nonlocal n
            for trial in trials:
                views = trial.views()
                if views:
                    parts.append(model.features(views))
                self._trials.append(_numbered(trial, n))
                n += len(views)
            return iter(())

        with patch.object(ablate, "run_trials", record):
            list(ablate.repeat(job.before, job.before, tried, model))
        self._features = np.concatenate(parts)
        self._looks = {row[:-1]: row[-1] for row in tried.select(*KEY, "look").unique().iter_rows()}

    def effects(self, head: Head, probs: dict[str, np.ndarray]) -> pl.DataFrame:
        """Returns the rows of `effects` of a layer; `probs` are its answers to the photos as they are."""
        answers = softmax(head.logits(self._features))

        class Replayed:
            def predict(self, views: list[np.ndarray]) -> np.ndarray:
                return answers[np.concatenate(views)]

        def now(row: dict, index: int) -> dict:
            p = probs[row["sample_id"]]
            return row | {"prob_before": float(p[index]), "predicted": self._classes[int(p.argmax())]}

        trials = (
            replace(t, row=now(t.row, t.class_index), also=tuple((now(row, i), i) for row, i in t.also))
            for t in self._trials
        )
        rows = [row | {"look": self._looks[tuple(row[k] for k in KEY)]} for row in run_trials(trials, Replayed(), 256)]
        return frame_of("effects", rows)


def _numbered(trial: Trial, n: int) -> Trial:
    """Returns a trial whose views are the numbers of their features, from `n` on."""
    number = iter(np.array([n + i]) for i in range(len(trial.views())))
    pairs = trial.pairs and [Pair(pair.name, next(number), next(number)) for pair in trial.pairs]
    return replace(trial, pairs=pairs, doses=tuple(replace(dose, view=next(number)) for dose in trial.doses))


class Bench:
    """Judges layers of one model by the photos that the run audited.

    Args:
        job: the repair of the arena's run.
        arena: knows what is truly in the photos.
        kept: file that the trials are kept in.
    """

    def __init__(self, job: Job, arena: Arena, kept: Path) -> None:
        self._planted = arena.planted
        self._job, self._judged = job, job.split.filter(pl.col("part") == "judged")
        self._features = photo_features_of(job, self._judged["sample_id"])
        classes = job.model.classes
        self._ids = self._judged["sample_id"].to_list()
        self._label = np.array([classes.index(name) for name in self._judged["label"]])
        self._groups = arena.judged(classes, self._label, self._ids)
        fitted = job.split.filter(pl.col("part") == "fitted")
        label = np.array([classes.index(name) for name in fitted["label"]])
        train = arena.judged(classes, label, fitted["sample_id"].to_list())
        sizes = dict(zip(train.names, train.sizes.tolist(), strict=True))
        self._shares = np.array([sizes.get(name, 0) for name in self._groups.names], float)
        pairs = [job.cues.with_columns(role=pl.lit(CHOSEN)), job.nulls.with_columns(role=pl.lit(NULL))]
        self._pairs = pl.concat(pairs)
        if not kept.is_file():
            kept.write_bytes(pickle.dumps(Tape(job, self._pairs, job.model)))
        self._tape = pickle.loads(kept.read_bytes())
        self._before = self._effects(job.model.linear())

    def row(self, head: Head) -> dict[str, float]:
        """Returns accuracies, and what is left of the net effects of the chosen cues."""
        right = head.logits(self._features).argmax(axis=1) == self._label
        accuracy, large = group_accuracy(right, self._groups), self._groups.sizes >= WORST_OF
        average = float(accuracy @ self._shares / self._shares.sum())
        row = {"worst": float(accuracy[large].min()), "average": average, "accuracy": float(right.mean())}
        return row | self._left(head, right)

    def _left(self, head: Head, right: np.ndarray) -> dict[str, float]:
        cue_ids, config = self._pairs["cue_id"].unique(maintain_order=True).to_list(), self._job.before.config
        shown, empty = self._job.presences(self._judged["sample_id"], cue_ids), np.zeros((0, len(cue_ids)), bool)
        label = self._judged["label"].to_numpy()
        photos = Judged(label, right, right, shown, cue_ids, np.zeros(0, str), empty)
        found = audit(self._pairs, (self._before, self._effects(head)), photos, config.rank, config.seed)
        chosen = found.filter((pl.col("role") == CHOSEN) & (pl.col("effect_before").abs() >= config.rank.min_effect))
        left = chosen.with_columns(left=pl.col("effect_after") / pl.col("effect_before"))
        planted = left.filter(pl.Series([pair in self._planted for pair in left.select(PAIR).iter_rows()], dtype=bool))
        worse = int((found["outcome"] == WORSE).sum())
        return {
            "left": left["left"].median(),
            "left_planted": planted["left"].median(),
            "nulls": int((found["role"] == NULL).sum()),
            "nulls_worse": worse,
        }

    def _effects(self, head: Head) -> pl.DataFrame:
        probs = softmax(head.logits(self._features))
        return self._tape.effects(head, dict(zip(self._ids, probs, strict=True)))
