"""Handwritten digits in a 2×2 grid with a planted red square → settings: a small CNN per strength, seed and null.

The protocol of RaVL (Varma et al. 2024) with a harder object: contrast 0.45, noise 0.25, 3,000 training images,
10 % label noise. A green disc is a decoy: in half of all images, tied to nothing. A magenta frame lies outside the
model's crop and goes with the class seven: tied, never used. All methods see the three cells without the digit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from discovery.regions import encode_rle
from discovery.run import frame_of
from tests.benchmarks.arena import Setting, Target, presences_of
from tests.benchmarks.digits_model import (
    ANYWHERE,
    CLASSES,
    Training,
    draw_tied,
    learned_strength,
    probs_of,
    region_probs_of,
    trained_model,
)
from tests.benchmarks.digits_pool import CELL, MARGIN, SIDE, Pool, box_of
from tests.benchmarks.peers import Evidence

N_MODELS = 5
"""Models whose presences are permuted, each many times."""
NAMES = ("zebra", "teapot", "bridge", "candle", "guitar", "snow", "ladder", "wheel", "curtain", "fern", "anvil", "kite")
NAMES += ("trumpet", "igloo", "barrel", "pillow", "compass", "volcano", "spoon", "mirror", "cactus", "drum", "anchor")
NAMES += ("whistle", "saddle", "marble", "turnip", "helmet", "feather", "canal", "pyramid", "tractor")
"""Clusters of noise have no name: each gets a word of its own that is like no other one."""


def setting(
    pool: Pool, folder: Path, cramers_v: float, seed: int, null: str = "", training: Training = ANYWHERE
) -> Setting:
    """Trains a model and lays out its audit.

    Args:
        pool: the images.
        folder: where models are kept, and the pool's images lie.
        cramers_v: of the square with its class in the training images.
        seed: of everything.
        null: "" for none, "shuffled labels", or "permuted presences" (each photo has the regions of another of its
            class, laid over its own cells: still tied to the class, but not what the model sees).
        training: of the model. Where it keeps to a part of the pool, the photos that are not audited are the others:
            drawn as those that it was trained on, of digits that it never saw.
    """
    draw, seed = seed, seed % N_MODELS if null == "permuted presences" else seed  # few models, many permutations
    known = trained_model(pool, folder, cramers_v, seed, null, training)
    label, train, target, model = known.label, known.train, known.target, known.model
    if training.before is not None:
        others = np.flatnonzero(~pool.audited & (pool.square < 0))
        train, target = draw_tied(pool, others[others >= training.before], label, cramers_v, known.rng)
    audited = np.flatnonzero(pool.audited)
    truth = pool.digit[audited]
    if null == "shuffled labels":  # within the audited split too: nothing goes with a label
        truth = known.rng.permutation(truth)
    probs = probs_of(model, pool.image[audited])
    facts = {
        **{"arena": "digits", "null": null, "cramers_v": cramers_v, "seed": draw},
        "accuracy": float((probs.argmax(1) == truth).mean()),
    }
    shown, labels = np.concatenate([train, audited]), np.concatenate([target, truth])
    regions = _regions_of(pool, shown, labels, null, np.random.default_rng([draw, 13]))
    tau = learned_strength(pool.square[audited] >= 0, truth, probs.argmax(1), label)
    audit = _Audit(pool, shown, labels, len(train), probs, *regions)
    return _layout(audit, facts, known.path, (label, tau))


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
        evidence=_evidence(audit, score),
        region_probs=lambda: _region_probs(audit, model),
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
                box_of(audit.pool.object_cell[image]).tolist(),
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
        box = dict(zip(("x0", "y0", "x1", "y1"), box_of(audit.pool.cells[row, 1]).tolist(), strict=True))
        rows.append({"region_id": region_id, "sample_id": ids[photo], "detector": "grid", "score": 1.0, **box})
    whole = dict(zip(("x0", "y0", "x1", "y1"), (0.0, 0.0, float(SIDE), float(SIDE)), strict=True))
    for photo in np.flatnonzero(audit.frame):
        named = {"region_id": f"{ids[photo]}-frame", "sample_id": ids[photo], "detector": "appearance"}
        rows.append({**named, "score": 1.0, **whole, "mask_rle": encode_rle(band)})
    return frame_of("regions", rows)


def _evidence(audit: _Audit, score: np.ndarray) -> Evidence:
    there = audit.photo >= audit.n_train
    content, photo = audit.content[there], audit.photo[there] - audit.n_train
    embedding = audit.pool.embedding[content]
    whole = embedding.reshape(-1, 3, embedding.shape[1]).mean(axis=1)
    score = score[:, audit.n_train :]
    return Evidence(
        embeddings=embedding.astype(np.float32),
        image=photo,
        region_probs=np.broadcast_to(np.float32(np.nan), (len(content), len(CLASSES))),
        label=audit.labels[audit.n_train :].astype(np.int64),
        probs=audit.probs.astype(np.float32),
        image_embedding=(whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32),
        cue_present=~np.isnan(score),
        cue_score=np.nan_to_num(score).astype(np.float32),
        cue_of_region=audit.pool.group[content].astype(np.int64),
        cue_words=(*NAMES[: len(score) - 1], "magenta border"),
    )


def _region_probs(audit: _Audit, model: Path) -> np.ndarray:
    return region_probs_of(audit.pool, audit.content[audit.photo >= audit.n_train], torch.jit.load(model))
