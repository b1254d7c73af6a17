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
from discovery.run import Run
from tests.benchmarks import arena_digits, digits_model
from tests.benchmarks.arena import run_stages
from tests.benchmarks.digits_pool import MARGIN, Pool, make_pool

COMPONENTS = 300


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
        tau: learned strength.
        square: sample_id → whether the photo shows the square.
    """

    run: Run
    tau: float
    square: dict[str, bool]

    def groups(self, classes: tuple[str, ...], label: np.ndarray, sample_ids: np.ndarray, least: int) -> Groups:
        """Returns the true groups of photos: class × square."""
        shown = np.array([self.square[sample_id] for sample_id in sample_ids])[:, None]
        return combine(label, shown, np.ones((len(classes), 1), bool), (classes, ("square",)), least)


def digits(folder: Path, cramers_v: float, seed: int) -> Arena:
    """Trains a model on the digits, runs the product's stages on it, and exports the groups of what was found."""
    classifier.CLASSIFIERS["torch"] = FeaturedTorch
    pool = make_pool(folder)
    setting = arena_digits.setting(pool, folder, cramers_v, seed)
    values = setting.config | {"retrain": {"inverse_regularisation": [1.0, 0.1, 0.01], "fits": 5}}
    run = run_stages(replace(setting, config=values), folder / "runs" / f"{cramers_v}-{seed}")
    for part in plan(run, STAGES["export"]):
        work(run, STAGES["export"], part)
    return Arena(run, setting.targets[0].tau, _squares(pool, setting.tables["samples"]))


def _squares(pool: Pool, samples: pl.DataFrame) -> dict[str, bool]:
    return {sample_id: bool(pool.square[int(sample_id)] >= 0) for sample_id in samples["sample_id"]}
