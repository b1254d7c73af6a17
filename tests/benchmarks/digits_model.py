"""Digits with a planted square → a small CNN trained on them, kept on disk, and what it says of images and regions."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from discovery.planted_recipe import Plant, Recipe, presence_probs
from tests.benchmarks.digits_pool import CELL, FRAME_CLASS, MARGIN, SIDE, Pool, corner_of

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
N_TRAIN, EPOCHS = 3000, 6
LABEL_NOISE = 0.1


@dataclass(frozen=True)
class Training:
    """How many images a model is trained on, how often, and before which row of the pool they lie (None: anywhere)."""

    n: int = N_TRAIN
    epochs: int = EPOCHS
    before: int | None = None


ANYWHERE = Training()


class SmallCNN(nn.Module):
    """Three convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        layers = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 7 * 7, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@dataclass(frozen=True)
class Trained:
    """A model, the class whose images show the square, its training images and their labels, and what drew them."""

    label: int
    train: np.ndarray
    target: np.ndarray
    model: torch.jit.ScriptModule
    path: Path
    rng: np.random.Generator


def trained_model(
    pool: Pool, folder: Path, cramers_v: float, seed: int, null: str, training: Training = ANYWHERE
) -> Trained:
    rng = np.random.default_rng([seed, int(1000 * cramers_v), 7])
    label = int(rng.choice([c for c in range(10) if c != FRAME_CLASS]))
    first = np.flatnonzero(~pool.audited & (pool.square < 0))
    first = first if training.before is None else first[first < training.before]
    train, target = draw_tied(pool, rng.permutation(first)[: training.n], label, cramers_v, rng)
    if null == "shuffled labels":
        target = rng.permutation(target)
    path = folder / "models" / f"{'shuffled' if null == 'shuffled labels' else 'v'}-{cramers_v}-{seed}.pt"
    return Trained(label, train, target, _train(pool.image[train], target, path, seed, training.epochs), path, rng)


@dataclass(frozen=True)
class Held:
    """A model and what it says of every image that it was not trained on, and of the regions in them.

    Attributes:
        label, tau: the class that the square goes with, and how strongly the model learned that.
        image: (n,) pool indices.
        probs: (n, 10) of the images.
        region_probs: (r, 10) of the given regions that lie in these images.
        inside: (m,) bool, which of the given regions those are.
    """

    label: int
    tau: float
    image: np.ndarray
    probs: np.ndarray
    region_probs: np.ndarray
    inside: np.ndarray


def held_out(pool: Pool, folder: Path, cramers_v: float, seed: int, regions: np.ndarray) -> Held:
    """Trains a model as `setting` does and asks it about all other images of the pool; regions are rows of it."""
    known = trained_model(pool, folder, cramers_v, seed, "")
    used = np.concatenate([known.train, pool.twin[known.train]])
    image = np.setdiff1d(np.arange(len(pool.image)), used)
    probs = probs_of(known.model, pool.image[image])
    inside = np.isin(pool.cells[regions, 0], image)
    tau = learned_strength(pool.square[image] >= 0, pool.digit[image], probs.argmax(1), known.label)
    return Held(known.label, tau, image, probs, region_probs_of(pool, regions[inside], known.model), inside)


def draw_tied(
    pool: Pool, picked: np.ndarray, label: int, v: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the picked images or their twins, so that the square goes with the class; a tenth of labels is wrong."""
    target = pool.digit[picked].copy()
    wrong = rng.random(len(picked)) < LABEL_NOISE
    target[wrong] = rng.integers(0, 10, int(wrong.sum()))
    recipe = Recipe(classes=CLASSES)
    own, rest = presence_probs(recipe, Plant(phrase="red square", kind="object", label=CLASSES[label], cramers_v=v))
    there = rng.random(len(picked)) < np.where(target == label, own, rest)
    return np.where(there, pool.twin[picked], picked), target


def _train(images: np.ndarray, target: np.ndarray, path: Path, seed: int, epochs: int) -> torch.jit.ScriptModule:
    if path.is_file():
        return torch.jit.load(path)
    torch.manual_seed(seed)
    model, batch = SmallCNN().to(memory_format=torch.channels_last), 100
    x, y = _normalised(images), torch.from_numpy(target)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    traced = torch.jit.trace(model.eval(), x[:2])
    torch.jit.save(traced, path)
    return traced


def _normalised(images: np.ndarray) -> torch.Tensor:
    crop = images[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    x = torch.from_numpy(np.ascontiguousarray(crop)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None]


@torch.inference_mode()
def probs_of(model, images: np.ndarray) -> np.ndarray:
    parts = [model(_normalised(images[i : i + 500])).softmax(1).numpy() for i in range(0, len(images), 500)]
    return np.concatenate(parts)


def learned_strength(square: np.ndarray, truth: np.ndarray, predicted: np.ndarray, label: int) -> float:
    """Learned strength: mean of the accuracy won on the class and lost on its rivals when the square is there."""
    right = predicted == truth
    own = right[square & (truth == label)].mean() - right[~square & (truth == label)].mean()
    rivals = right[~square & (truth != label)].mean() - right[square & (truth != label)].mean()
    return float((own + rivals) / 2)


def region_probs_of(pool: Pool, regions: np.ndarray, model: torch.jit.ScriptModule) -> np.ndarray:
    """Returns (r, 10) float32 probabilities of single cells with nothing beside them."""
    alone = np.full((len(regions), SIDE, SIDE, 3), 10, np.uint8)
    for k, (i, c) in enumerate(pool.cells[regions]):
        y, x = corner_of(c)
        alone[k, y : y + CELL, x : x + CELL] = pool.image[i, y : y + CELL, x : x + CELL]
    return probs_of(model, alone).astype(np.float32)
