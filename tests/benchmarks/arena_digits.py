"""Handwritten digits in a 2×2 grid with a planted red square → settings: a small CNN per strength, seed and null.

The protocol of RaVL (Varma et al. 2024) with a harder object: contrast 0.45, noise 0.25, 3,000 training images,
10 % label noise. A green disc is a decoy: in half of all images, tied to nothing. A magenta frame lies outside the
model's crop and goes with the class seven: tied, never used. All methods see the three cells without the digit.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import torch
from PIL import Image
from torch import nn

from discovery.backends.encoder import load_encoder
from discovery.cluster import cluster
from discovery.config import ClusterConfig, ComputeConfig
from discovery.planted_recipe import Plant, Recipe, presence_probs
from discovery.regions import encode_rle
from discovery.run import frame_of
from tests.benchmarks.arena import Setting, Target, presences_of
from tests.benchmarks.peers import Evidence

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FRAME_CLASS = 7
CELL, MARGIN = 28, 2
SIDE = 2 * CELL + 2 * MARGIN
N_MODELS = 5
"""Models whose presences are permuted, each many times."""
COPIES, N_EVAL, N_TRAIN, EPOCHS = 3, 900, 3000, 6
CONTRAST, NOISE, LABEL_NOISE = 0.45, 0.25, 0.1
K_CANDIDATES = (4, 8, 16, 32)
"""Numbers of clusters among which the silhouette chooses: these images hold far less than photos do."""
NAMES = ("zebra", "teapot", "bridge", "candle", "guitar", "snow", "ladder", "wheel", "curtain", "fern", "anvil", "kite")
NAMES += ("trumpet", "igloo", "barrel", "pillow", "compass", "volcano", "spoon", "mirror", "cactus", "drum", "anchor")
NAMES += ("whistle", "saddle", "marble", "turnip", "helmet", "feather", "canal", "pyramid", "tractor")
"""Clusters of noise have no name: each gets a word of its own that is like no other one."""


@dataclass(frozen=True)
class Pool:
    """Every image that a model is trained or audited on; audited ones come last.

    Attributes:
        image: (n, S, S, 3) uint8.
        digit: (n,) int.
        object_cell, square, disc, frame: per image the digit's cell, whether and where there is a square or a disc
            (cell, or -1), and whether there is a frame.
        twin: (n,) index of the same image with the square where this one has none, and the other way; -1 for audited.
        cells: (r, 2) image and cell of each region.
        embedding: (r, d) unit-norm embeddings of the regions.
        group: (r,) cluster of each region.
        distance: (r,) to the cluster's centre.
        audited: (n,) bool.
    """

    image: np.ndarray
    digit: np.ndarray
    object_cell: np.ndarray
    square: np.ndarray
    disc: np.ndarray
    frame: np.ndarray
    twin: np.ndarray
    cells: np.ndarray
    embedding: np.ndarray
    group: np.ndarray
    distance: np.ndarray
    audited: np.ndarray


def make_pool(folder: Path, seed: int = 0) -> Pool:
    """Draws, embeds and clusters the pool once, and writes its images as PNG; read back when it is there."""
    file = folder / "pool.npz"
    if file.is_file():
        return Pool(**np.load(file))
    drawn = _draw_pool(np.random.default_rng(seed))
    cells = np.array([(i, c) for i in range(len(drawn["image"])) for c in range(4) if c != drawn["object_cell"][i]])
    embedding = _embed(drawn["image"], cells)
    found = cluster(embedding[:: max(1, len(cells) // 20_000)], ClusterConfig(k_candidates=K_CANDIDATES), seed)
    group, distance = found.assign(embedding)
    pool = Pool(**drawn, cells=cells, embedding=embedding, group=group, distance=distance)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pool.image):
        Image.fromarray(image).save(folder / "images" / f"{i:05d}.png", compress_level=1)
    np.savez(file, **vars(pool))
    return pool


def _draw_pool(rng: np.random.Generator) -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    ink, digit = load_digits(return_X_y=True)
    order = rng.permutation(len(ink))
    rows = []
    for place, thing in enumerate(order):
        audited = place >= len(order) - N_EVAL // 2
        for _ in range(2 if audited else COPIES):
            object_cell, square_cell, disc_cell = rng.permutation(4)[:3]
            frame = rng.random() < (0.9 if digit[thing] == FRAME_CLASS else 0.01)
            disc = disc_cell if rng.random() < 0.5 else -1
            key = int(rng.integers(2**31))
            versions = [rng.random() < 0.5] if audited else [False, True]
            for there in versions:
                rows.append((thing, object_cell, square_cell if there else -1, disc, frame, key, audited))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    thing, object_cell, square, disc, frame, key, audited = columns
    image = np.stack([_draw(ink[row[0]].reshape(8, 8), *row[1:6]) for row in rows])
    twin = np.where(audited, -1, np.arange(len(rows)) ^ 1)
    return {
        **{"image": image, "digit": digit[thing], "object_cell": object_cell, "square": square, "disc": disc},
        **{"frame": frame, "twin": twin, "audited": audited},
    }


def _draw(ink: np.ndarray, object_cell: int, square: int, disc: int, frame: bool, key: int) -> np.ndarray:
    rng = np.random.default_rng(key)
    canvas = np.zeros((SIDE, SIDE, 3), np.float32)
    noise = rng.normal(0, NOISE, (SIDE, SIDE, 1)).astype(np.float32)
    offsets = rng.integers(3, CELL - 14, (2, 2))
    y, x = _corner(object_cell)
    canvas[y : y + CELL, x : x + CELL] += CONTRAST * cv2.resize((ink / 16).astype(np.float32), (CELL, CELL))[..., None]
    canvas += noise
    if square >= 0:
        top, left = np.array(_corner(square)) + offsets[0]
        canvas[top : top + 9, left : left + 9] = np.array([0.9, 0.1, 0.1], np.float32) + noise[:9, :9] / 4
    if disc >= 0:
        top, left = np.array(_corner(disc)) + offsets[1]
        cv2.circle(canvas, (int(left + 5), int(top + 5)), 5, (0.1, 0.7, 0.2), -1)
    if frame:
        band = np.ones((SIDE, SIDE), bool)
        band[MARGIN:-MARGIN, MARGIN:-MARGIN] = False
        canvas[band] = (0.85, 0.1, 0.75)
    return np.clip(canvas * 255, 0, 255).astype(np.uint8)


def _corner(cell: int) -> tuple[int, int]:
    return MARGIN + CELL * (int(cell) // 2), MARGIN + CELL * (int(cell) % 2)


def _box(cell: int) -> np.ndarray:
    y, x = _corner(cell)
    return np.array([x, y, x + CELL, y + CELL], np.float32)


def _embed(images: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Embeds the cells of what the model sees: the frame is outside, and must not show in them."""
    encoder = load_encoder("efficientnet_lite0", ComputeConfig())
    seen = np.ascontiguousarray(images[:, MARGIN:-MARGIN, MARGIN:-MARGIN])
    boxes = [np.stack([_box(c) - MARGIN for c in cells[cells[:, 0] == i, 1]]) for i in range(len(images))]
    parts = [encoder.embed(list(seen[i : i + 32]), boxes[i : i + 32]).embedding for i in range(0, len(images), 32)]
    return np.concatenate(parts)


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


def setting(pool: Pool, folder: Path, cramers_v: float, seed: int, null: str = "") -> Setting:
    """Trains a model and lays out its audit.

    Args:
        pool: the images.
        folder: where models are kept, and the pool's images lie.
        cramers_v: of the square with its class in the training images.
        seed: of everything.
        null: "" for none, "shuffled labels", or "permuted presences" (each photo has the regions of another of its
            class, laid over its own cells: still tied to the class, but not what the model sees).
    """
    draw, seed = seed, seed % N_MODELS if null == "permuted presences" else seed  # few models, many permutations
    rng = np.random.default_rng([seed, int(1000 * cramers_v), 7])
    label = int(rng.choice([c for c in range(10) if c != FRAME_CLASS]))
    train, target = _training_set(pool, label, cramers_v, rng)
    if null == "shuffled labels":
        target = rng.permutation(target)
    path = folder / "models" / f"{'shuffled' if null == 'shuffled labels' else 'v'}-{cramers_v}-{seed}.pt"
    model = _train(pool, train, target, path, seed)
    audited = np.flatnonzero(pool.audited)
    truth = pool.digit[audited]
    if null == "shuffled labels":  # within the audited split too: nothing goes with a label
        truth = rng.permutation(truth)
    probs = _probs(model, pool.image[audited])
    facts = {
        **{"arena": "digits", "null": null, "cramers_v": cramers_v, "seed": draw},
        "accuracy": float((probs.argmax(1) == truth).mean()),
    }
    shown, labels = np.concatenate([train, audited]), np.concatenate([target, truth])
    regions = _regions_of(pool, shown, labels, null, np.random.default_rng([draw, 13]))
    tau = _tau(pool.square[audited] >= 0, truth, probs.argmax(1), label)
    audit = _Audit(pool, shown, labels, len(train), probs, *regions)
    return _layout(audit, facts, path, (label, tau))


def _training_set(pool: Pool, label: int, v: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws training images so that the square goes with the class; a tenth of the labels is wrong."""
    first = np.flatnonzero(~pool.audited & (pool.square < 0))
    picked = rng.permutation(first)[:N_TRAIN]
    target = pool.digit[picked].copy()
    wrong = rng.random(len(picked)) < LABEL_NOISE
    target[wrong] = rng.integers(0, 10, int(wrong.sum()))
    recipe = Recipe(classes=CLASSES)
    own, rest = presence_probs(recipe, Plant(phrase="red square", kind="object", label=CLASSES[label], cramers_v=v))
    there = rng.random(len(picked)) < np.where(target == label, own, rest)
    return np.where(there, pool.twin[picked], picked), target


def _train(pool: Pool, train: np.ndarray, target: np.ndarray, path: Path, seed: int) -> torch.jit.ScriptModule:
    if path.is_file():
        return torch.jit.load(path)
    torch.manual_seed(seed)
    model, batch = SmallCNN(), 100
    x, y = _normalised(pool.image[train]), torch.from_numpy(target)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
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
def _probs(model, images: np.ndarray) -> np.ndarray:
    parts = [model(_normalised(images[i : i + 500])).softmax(1).numpy() for i in range(0, len(images), 500)]
    return np.concatenate(parts)


def _tau(square: np.ndarray, truth: np.ndarray, predicted: np.ndarray, label: int) -> float:
    """Learned strength: mean of the accuracy won on the class and lost on its rivals when the square is there."""
    right = predicted == truth
    own = right[square & (truth == label)].mean() - right[~square & (truth == label)].mean()
    rivals = right[~square & (truth != label)].mean() - right[square & (truth != label)].mean()
    return float((own + rivals) / 2)


@dataclass(frozen=True)
class _Audit:
    """A model and its photos: those trained on, then those audited; and the regions in them.

    Attributes:
        pool: the images.
        shown: (n,) pool indices.
        labels: (n,) int.
        n_train: how many come first.
        probs: (audited, 10).
        rows: (r,) regions of the pool that lie in these photos.
        photo: (r,) int, place of each region's photo in `shown`.
        content: (r,) regions of the pool whose look stands for these regions: themselves, unless permuted.
    """

    pool: Pool
    shown: np.ndarray
    labels: np.ndarray
    n_train: int
    probs: np.ndarray
    rows: np.ndarray
    photo: np.ndarray
    content: np.ndarray

    @property
    def ids(self) -> list[str]:
        return [f"{image:05d}" for image in self.shown]

    @property
    def frame(self) -> np.ndarray:
        return self.pool.frame[self.shown]


def _regions_of(pool: Pool, shown: np.ndarray, labels: np.ndarray, null: str, rng: np.random.Generator):
    """Returns rows, photo and content of `_Audit`; permuted within the class when that is the null."""
    per_image = np.arange(len(pool.cells)).reshape(-1, 3)
    rows = per_image[shown]
    content = rows.copy()
    if null == "permuted presences":
        for label in range(10):
            own = np.flatnonzero(labels == label)
            content[own] = rng.permuted(rows[rng.permutation(own)], axis=1)
    return rows.reshape(-1), np.repeat(np.arange(len(shown)), 3), content.reshape(-1)


def _layout(audit: _Audit, facts: dict, model: Path, planted: tuple[int, float]) -> Setting:
    cues, score, members = _candidates(audit)
    ids, n_train = audit.ids, audit.n_train
    region_ids = np.array(
        [f"{ids[p]}-{audit.pool.cells[row, 1]}" for p, row in zip(audit.photo, audit.rows, strict=True)]
    )
    names = {
        key: [f"{ids[key[1]]}-frame"] if key[0] == len(cues) - 1 else region_ids[m].tolist()
        for key, m in members.items()
    }
    truth = audit.labels[n_train:]
    predictions = [
        {
            **{"sample_id": i, "predicted": CLASSES[int(p.argmax())], "probs": p.tolist(), "prob_label": float(p[t])},
            "correct": bool(p.argmax() == t),
        }
        for i, p, t in zip(ids[n_train:], audit.probs, truth, strict=True)
    ]
    role = _roles(audit, len(cues))
    return Setting(
        name="digits {null} V={cramers_v} seed={seed}".format(**facts),
        facts=facts,
        config={
            "seed": facts["seed"],
            "dataset": {"root": str(model.parents[1] / "images")},
            "model": {"kind": "torch", "path": str(model), "classes": CLASSES, "input_px": 2 * CELL, "resize_px": SIDE},
            "ablate": {"untied_images": 0},
        },
        tables={
            "samples": _samples(audit),
            "heads": frame_of("heads", [{"class_name": name} for name in CLASSES]),
            "predictions": frame_of("predictions", predictions),
            "attributes": frame_of("attributes", []),
            "regions": _regions(audit, region_ids),
            "presences": presences_of(cues, score, ids, names),
        },
        evidence=_evidence(audit, score, model),
        cue_ids=tuple(cue["cue_id"] for cue in cues),
        role=(role,) * len(CLASSES),
        targets=(Target(frozenset(k for k, r in enumerate(role) if r == "cue"), *planted, "object"),),
        planted_region=_is_square(audit)[audit.photo >= n_train],
    )


def _candidates(audit: _Audit) -> tuple[list[dict], np.ndarray, dict]:
    """Returns the candidates (clusters, then the frame), their (q, n) scores, and (candidate, photo) → regions."""
    group, nearness = audit.pool.group[audit.content], 1 - audit.pool.distance[audit.content]
    n_groups = int(audit.pool.group.max()) + 1
    score = np.full((n_groups + 1, len(audit.shown)), np.nan)
    np.fmax.at(score, (group, audit.photo), nearness)
    score[-1, audit.frame] = 1.0
    members: dict[tuple[int, int], list[int]] = {}
    for row, (g, photo) in enumerate(zip(group.tolist(), audit.photo.tolist(), strict=True)):
        members.setdefault((g, photo), []).append(row)
    members |= {(n_groups, photo): [] for photo in np.flatnonzero(audit.frame).tolist()}
    cues = [
        {"cue_id": f"cluster-{g}", "phrase": NAMES[g], "kind": "object", "source": "cluster"} for g in range(n_groups)
    ]
    cues.append({"cue_id": "frame", "phrase": "magenta border", "kind": "border", "source": "attribute"})
    return cues, score, members


def _is_square(audit: _Audit) -> np.ndarray:
    image, cell = audit.pool.cells[audit.content].T
    return audit.pool.square[image] == cell


def _roles(audit: _Audit, n_cues: int) -> tuple[str, ...]:
    image, cell = audit.pool.cells[audit.content].T
    group = audit.pool.group[audit.content]
    disc = audit.pool.disc[image] == cell
    square = _is_square(audit)
    roles = [
        "cue" if square[group == g].mean() > 0.5 else "decoy" if disc[group == g].mean() > 0.5 else ""
        for g in range(n_cues - 1)
    ]
    return (*roles, "unused")


def _samples(audit: _Audit) -> pl.DataFrame:
    rows = []
    for place, (image, label) in enumerate(zip(audit.shown, audit.labels, strict=True)):
        box = dict(
            zip(
                ("object_x0", "object_y0", "object_x1", "object_y1"),
                _box(audit.pool.object_cell[image]).tolist(),
                strict=False,
            )
        )
        train = place < audit.n_train
        named = {"sample_id": f"{image:05d}", "uri": f"{image:05d}.png", "label": CLASSES[label]}
        size = {"width_px": SIDE, "height_px": SIDE}
        rows.append({**named, **size, **box, "split": "train" if train else "test", "audit": not train})
    return frame_of("samples", rows)


def _regions(audit: _Audit, region_ids: np.ndarray) -> pl.DataFrame:
    band = np.ones((SIDE, SIDE), bool)
    band[MARGIN:-MARGIN, MARGIN:-MARGIN] = False
    rows, ids = [], audit.ids
    for region_id, photo, row in zip(region_ids, audit.photo, audit.rows, strict=True):
        box = dict(zip(("x0", "y0", "x1", "y1"), _box(audit.pool.cells[row, 1]).tolist(), strict=True))
        rows.append({"region_id": region_id, "sample_id": ids[photo], "detector": "grid", "score": 1.0, **box})
    whole = dict(zip(("x0", "y0", "x1", "y1"), (0.0, 0.0, float(SIDE), float(SIDE)), strict=True))
    for photo in np.flatnonzero(audit.frame):
        named = {"region_id": f"{ids[photo]}-frame", "sample_id": ids[photo], "detector": "appearance"}
        rows.append({**named, "score": 1.0, **whole, "mask_rle": encode_rle(band)})
    return frame_of("regions", rows)


def _evidence(audit: _Audit, score: np.ndarray, model: Path) -> Evidence:
    there = audit.photo >= audit.n_train
    content, photo = audit.content[there], audit.photo[there] - audit.n_train
    image, cell = audit.pool.cells[content].T
    alone = np.full((len(content), SIDE, SIDE, 3), 10, np.uint8)
    for k, (i, c) in enumerate(zip(image, cell, strict=True)):
        y, x = _corner(c)
        alone[k, y : y + CELL, x : x + CELL] = audit.pool.image[i, y : y + CELL, x : x + CELL]
    embedding = audit.pool.embedding[content]
    whole = embedding.reshape(-1, 3, embedding.shape[1]).mean(axis=1)
    score = score[:, audit.n_train :]
    return Evidence(
        embeddings=embedding.astype(np.float32),
        image=photo,
        region_probs=_probs(torch.jit.load(model), alone).astype(np.float32),
        label=audit.labels[audit.n_train :].astype(np.int64),
        probs=audit.probs.astype(np.float32),
        image_embedding=(whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32),
        cue_present=~np.isnan(score),
        cue_score=np.nan_to_num(score).astype(np.float32),
        cue_of_region=audit.pool.group[content].astype(np.int64),
        cue_words=(*NAMES[: len(score) - 1], "magenta border"),
    )
