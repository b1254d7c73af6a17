"""A setting with a planted square → its finished run, a model whose last layer can be replaced, and the true groups."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image
from sklearn.utils.extmath import randomized_svd
from torch import nn

from discovery.backends import classifier
from discovery.backends.roles import Head, softmax
from discovery.corridor import STAGES, plan, work
from discovery.cue_groups import Groups, combine
from discovery.repairs.task import Task
from discovery.run import Run
from tests.benchmarks import arena_digits, arena_photos, digits_model, photos_pool
from tests.benchmarks.arena import Setting, run_stages
from tests.benchmarks.digits_model import Training
from tests.benchmarks.digits_pool import MARGIN, Look, make_pool

COMPONENTS = 300
LOOK = Look(contrast=0.8, noise=0.2, copies=12, audited_copies=4, k_candidates=(8, 16, 32))
"""A digit that can be read: with one that cannot, a model that lets the square go must lose on average. Of four
clusters one holds squares and discs alike, so that k is at least 8: the question is what a repair does with the cue."""
TRAINING = Training(n=4500, epochs=3, before=375 * 2 * LOOK.copies)
"""Few epochs, so that a model does not know its training photos by heart; their copies are of 375 digits, the other 972
are fitted on by repairs, and 450 more are judged by."""

PHOTO_LOOK = photos_pool.Look(
    contrast=0.15, noise=4, opacity=1, size=(0.6, 0.66), train=110, backgrounds=4, decoy_versions=False
)
"""Here, too, a digit that can be read, by the features of an ImageNet network and without the cues."""


class FeaturedTorch(classifier.TorchClassifier):
    """A TorchScript file of the arena's network, with what its last layer sees, in fewer numbers.

    The 3,136 inputs of the layer are given as their first principal components over the photos seen first, and what the
    layer makes of the rest: ten numbers more. Features × coef + intercept are the network's logits exactly.
    """

    def __init__(self, config, compute, head: Head) -> None:
        super().__init__(config, compute, head)
        net = digits_model.SmallCNN().eval()
        net.load_state_dict(self._model.state_dict())
        *body, last = net.body
        self._body = nn.Sequential(*body)
        self._weight, self._bias = last.weight.detach().double().numpy(), last.bias.detach().double().numpy()
        self._basis = _basis(Path(config.path), self._inputs)

    @torch.inference_mode()
    def _inputs(self, views) -> np.ndarray:
        batch = torch.from_numpy(np.asarray(views)).permute(0, 3, 1, 2)
        return self._body((batch.float() - self._mean) / self._std).numpy()

    def features(self, views):
        x = self._inputs(views)
        parts = x @ self._basis
        rest = (x - parts @ self._basis.T) @ self._weight.T.astype(np.float32)
        return np.append(parts, rest, axis=1)

    def linear(self) -> Head:
        return Head(self.classes, np.append(self._weight @ self._basis, np.eye(len(self._bias)), axis=1), self._bias)

    def predict(self, views):
        return softmax(self.linear().logits(self.features(views)))


def _basis(model: Path, inputs) -> np.ndarray:
    """Returns (inputs, components) principal directions over the first images of the pool; kept beside the model."""
    file = model.with_suffix(".npy")
    if not file.is_file():
        paths = sorted((model.parents[1] / "images").glob("*.png"))[:2000]
        views = [np.array(Image.open(path))[MARGIN:-MARGIN, MARGIN:-MARGIN] for path in paths]
        x = np.concatenate([inputs(views[i : i + 200]) for i in range(0, len(views), 200)])
        _, _, directions = randomized_svd(x - x.mean(axis=0), COMPONENTS, random_state=0)
        np.save(file, directions.T.astype(np.float32))
    return np.load(file)


@dataclass(frozen=True)
class Arena:
    """A finished run on planted photos, and what is truly in them.

    Attributes:
        run: with cues and groups.
        tau: learned strength, per planted cue.
        classes: the model's.
        shown: sample_id → (k,) bool, which of the k planted cues a photo shows.
        own: (c, k) bool, the planted cue of each class.
        planted: class and candidate, of all candidates that are the planted cue of the class.
    """

    run: Run
    tau: tuple[float, ...]
    classes: tuple[str, ...]
    shown: dict[str, np.ndarray]
    own: np.ndarray
    planted: frozenset[tuple[str, str]]

    def told(self, task: Task) -> Task:
        """Returns a task with the planted cues and their groups, made as the product makes those of found ones."""
        shown, own = np.array([self.shown[sample_id] for sample_id in task.sample_id]), self._of(task.classes)
        names = [f"cue {number}" for number in range(shown.shape[1])]
        rows = [
            {"label": task.classes[y], "cue_id": names[cue], "phrase": names[cue], "kind": "object"}
            for y, cue in np.argwhere(own).tolist()
        ]
        groups = combine(task.label, shown, own, (task.classes, names), task.config.min_group)
        told = replace(task, cues=pl.DataFrame(rows), groups=groups)
        return replace(told, shown=shown[:, [names.index(cue_id) for cue_id in told.cue_ids]])

    def judged(self, classes: tuple[str, ...], label: np.ndarray, sample_ids: list[str]) -> Groups:
        """Returns the groups that are judged by: class × its own planted cue; where it has none, × any."""
        shown, own = np.array([self.shown[sample_id] for sample_id in sample_ids]), self._of(classes)
        own[~own.any(axis=1)] = True
        there = (shown & own[label]).any(axis=1)[:, None]
        return combine(label, there, np.ones((len(classes), 1), bool), (classes, ("cue",)), 1)

    def _of(self, classes: tuple[str, ...]) -> np.ndarray:
        return self.own[[self.classes.index(name) for name in classes]].copy()


def digits(folder: Path, cramers_v: float, seed: int) -> Arena:
    """Trains a model on the digits, runs the product's stages on it, and exports the groups of what was found."""
    classifier.CLASSIFIERS["torch"] = FeaturedTorch
    pool = make_pool(folder, look=LOOK)
    setting = arena_digits.setting(pool, folder, cramers_v, seed, training=TRAINING)
    run = finished(setting, folder / "runs" / f"{cramers_v}-{seed}")
    classes = tuple(setting.config["model"]["classes"])
    shown = {sample_id: pool.square[[int(sample_id)]] >= 0 for sample_id in setting.tables["samples"]["sample_id"]}
    own = np.arange(len(classes))[:, None] == setting.targets[0].label
    return Arena(
        run, tuple(target.tau for target in setting.targets), classes, shown, own, planted_pairs(setting, classes)
    )


def photos(folder: Path, backgrounds: Path, cramers_v: float, seed: int) -> Arena:
    """Fits a probe on photos with five kinds of cues, runs the product's stages on it, and exports the groups."""
    pool = photos_pool.make_pool(folder, backgrounds, look=PHOTO_LOOK)
    setting = arena_photos.setting(pool, cramers_v, seed)
    run = finished(setting, folder / "runs" / f"{cramers_v}-{seed}")
    classes, names = tuple(setting.facts["classes"]), [name for name, *_ in photos_pool.CUES.values()][:-1]
    cue = dict(pool.samples.select("sample_id", "cue").iter_rows())
    shown = {
        sample_id: np.array([cue[sample_id] == name for name in names])
        for sample_id in setting.tables["samples"]["sample_id"]
    }
    own = np.array([[photos_pool.CUES[label][0] == name for name in names] for label in classes])
    return Arena(
        run, tuple(target.tau for target in setting.targets), classes, shown, own, planted_pairs(setting, classes)
    )


def planted_pairs(setting: Setting, classes: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((classes[each.label], setting.cue_ids[cue]) for each in setting.targets for cue in each.cues)


def finished(setting: Setting, folder: Path) -> Run:
    """Runs the stages up to the export; a run that is finished is kept, so that a repair can be tried again."""
    if (folder / "groups.parquet").is_file():
        return Run.open(folder)
    run = run_stages(setting, folder)
    for part in plan(run, STAGES["export"]):
        work(run, STAGES["export"], part)
    return run
