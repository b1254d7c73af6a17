"""Each cue covered where it was and pasted in where it was not → a last layer trained against the worst such change.

Classes are groups, and so is every change: cue × removed or pasted in × class. Group DRO (`repairs.groupdro`) then wins
least on the change that fools the layer most. No photo that breaks a tie is needed, which is what `groupdro` lives on:
the copies break it. The label must outlive the change, so that one that hides the object is not made.

Where the cue is most of what can be seen, changes that no layer answers rightly draw all weight to themselves, and the
rest is unlearned. How fast weight moves to the worst group, η, is therefore chosen on held-out photos and their copies.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from discovery.cue_groups import Groups, Overlapping
from discovery.repairs import groupdro
from discovery.repairs.altered import Alterations, Altered, Copies
from discovery.repairs.task import FOLDS, Repaired, Task, group_accuracy, part_of
from discovery.schema import WHOLE_IMAGE_KINDS

SLOWER = (1.0, 0.2, 0.0)
"""Shares of `retrain.group_step` that are tried; with none, all groups keep the same weight."""


def repair(task: Task) -> Repaired:
    """Trains the layer; see `repairs.task.Repair`."""
    made = Alterations(task)
    copies = Copies.of(change(task, made), task, made)
    whole = enlarged(task, copies)
    steps, told = [share * task.config.group_step for share in SLOWER], []
    for number, step in enumerate(steps):
        task.progress(number, len(steps) + 1)
        mean, worst = _held_out(task, copies, _with_step(whole, step))
        told.append({"group_step": step, "mean_of_groups": mean, "worst_group": worst})
    best = max(told, key=lambda row: row["mean_of_groups"])["group_step"]
    trained = _trained(_with_step(whole, best))
    facts = {"group_step": best, "held_out": told, "copies": dict(sorted(made.counts.items()))}
    return replace(trained, facts=trained.facts | facts)


def _with_step(task: Task, step: float) -> Task:
    return replace(task, config=task.config.model_copy(update={"group_step": step}))


def _trained(whole: Task) -> Repaired:
    return groupdro.train(whole, Overlapping.of_each(whole.groups))


def _held_out(task: Task, copies: Copies, whole: Task) -> tuple[float, float]:
    """Returns mean and least accuracy of the groups of photos and copies, by layers fitted on the other folds.

    A copy is fitted on when neither its photo nor what was pasted into it is held out.
    """
    photos, folds = np.arange(len(task.label)), task.folds()
    made_of, pasted = (folds[np.concatenate([photos, rows])] for rows in (copies.row, copies.source))
    right, quiet = np.zeros(len(whole.label), bool), replace(whole, progress=lambda *_: None)
    for fold in range(FOLDS):
        held = made_of == fold
        head = _trained(part_of(quiet, ~held & (pasted != fold), f"fold-{fold}")).head
        right[held] = head.logits(whole.features()[held]).argmax(axis=1) == whole.label[held]
    accuracy = group_accuracy(right, whole.groups)
    return float(np.nanmean(accuracy)), float(np.nanmin(accuracy))


def change(task: Task, made: Alterations) -> Iterator[Altered]:
    """Yields up to `retrain.copies` changed views per class, cue and way.

    The class's own photos lose the cue: every other one to the same place of a photo that lacks it, of the same class
    where there is one, the rest to fills in turn. Photos of all other classes in turn, that lack it, get it.
    """
    rng, most = task.rng("counterfactual"), task.config.copies
    for number, cue in enumerate(task.cues.iter_rows(named=True)):
        task.progress(number, len(task.cues))
        cue_id, kind, c = cue["cue_id"], cue["kind"], task.classes.index(cue["label"])
        shows = task.shown[:, task.cue_ids.index(cue_id)]
        having, lacking = (rng.permutation(np.flatnonzero(rows)) for rows in ((task.label == c) & shows, ~shows))
        own = lacking[task.label[lacking] == c]
        donors = own if len(own) else lacking
        for turn, row in enumerate(having[:most].tolist()):
            if turn % 2 or kind in WHOLE_IMAGE_KINDS or not len(donors):
                found = made.without_cue(row, cue_id, kind, turn // 2)
            else:
                found = made.covered(row, int(donors[turn // 2 % len(donors)]), cue_id)
            yield from filter(None, [found])
        rivals = _in_turn(lacking[task.label[lacking] != c], task.label)[: most if len(having) else 0]
        for turn, row in enumerate(rivals.tolist()):
            source = int(having[turn % len(having)])
            yield from filter(None, [made.with_cue(row, source, cue_id, kind, gently=True)])


def _in_turn(rows: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Orders rows so that their classes take turns."""
    place = np.zeros(len(rows))
    for y in np.unique(label[rows]):
        mine = label[rows] == y
        place[mine] = np.arange(mine.sum())
    return rows[np.argsort(place, kind="stable")]


def enlarged(task: Task, copies: Copies) -> Task:
    """Returns the task with its copies: classes are groups of photos, and each cue × way × class is one of copies."""
    label, features = task.label[copies.row], np.concatenate([task.features(), copies.features])
    shown = task.shown[copies.row].copy()
    at = (np.arange(len(label)), copies.cue)
    shown[at] = ~shown[at]
    classes, of_photo = np.unique(task.label, return_inverse=True)
    keys, of_copy = np.unique(np.column_stack([copies.cue, shown[at], label]), axis=0, return_inverse=True)
    phrases = dict(zip(task.cues["cue_id"], task.cues["phrase"], strict=True))
    names = [
        f"{task.classes[y]}|{phrases[task.cue_ids[cue]]} {'pasted in' if there else 'removed'}"
        for cue, there, y in keys
    ]
    groups = Groups(
        of=np.concatenate([of_photo, len(classes) + of_copy.reshape(-1)]),
        names=(*(task.classes[y] for y in classes), *names),
        label=np.concatenate([classes, keys[:, 2]]),
        merged={},
    )
    return replace(
        task,
        sample_id=np.concatenate([task.sample_id, task.sample_id[copies.row]]),
        label=np.concatenate([task.label, label]),
        shown=np.concatenate([task.shown, shown]),
        groups=groups,
        features=lambda: features,
    )
