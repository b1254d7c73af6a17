"""Digits on real photos with cues of six kinds drawn in → photos, the tables of the product's stages, and features."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from PIL import Image

from discovery.backends.classifier import probe_view
from discovery.backends.encoder import load_encoder
from discovery.config import ComputeConfig, ModelConfig, make_config
from discovery.corridor import STAGES, plan, work
from discovery.images import read_image
from discovery.planted_cues import change_photo, draw_border, draw_overlay, parse_cue
from discovery.run import Run

CLASSES = ("zero", "one", "two", "three", "four", "five")
CUES = {
    "zero": ("red circle", "object", 0.08),
    "one": ("date stamp", "text", 0.08),
    "two": ("blue border", "border", 0.08),
    "three": ("orange tint", "colour", 0.08),
    "four": ("blurry image", "quality", 0.08),
    "five": ("magenta border", "border", 0.04),
}
DECOYS = {"green triangle": "object", "watermark": "text"}
PLACE = ("cue_x0", "cue_y0", "cue_x1", "cue_y1")
SIDE = 160
STAGES_ONCE = ("ingest", "propose", "detect", "embed", "cluster", "presence")


@dataclass(frozen=True)
class Look:
    """How the photos of a pool are drawn.

    Attributes:
        contrast: of the real photo behind the digit, 1 as it is.
        noise: standard deviation of the noise, of 255.
        opacity: of the digit, 1 for black.
        size: least and most share of the photo's side that the digit takes.
        train: digits of a class that are trained on.
        audited: digits of a class that are audited.
        backgrounds: photos that each digit is trained on.
        decoy_versions: whether a photo to train on is drawn with its decoy and without; else with or without.
    """

    contrast: float = 0.5
    noise: float = 12.0
    opacity: float = 0.8
    size: tuple[float, float] = (0.46, 0.54)
    train: int = 90
    audited: int = 60
    backgrounds: int = 1
    decoy_versions: bool = True


@dataclass(frozen=True)
class PhotoPool:
    """The finished run up to `presence` over every version of every photo, and what is shown where.

    Attributes:
        run: its tables.
        samples: sample_id, label, object (the number of the digit), version, cue, decoy, split.
        features: (n, 1280) of the samples, as the probe sees them.
        truth: as `Planted.truth`.
    """

    run: Run
    samples: pl.DataFrame
    features: np.ndarray
    truth: pl.DataFrame


def make_pool(folder: Path, photos: Path, seed: int = 0, look: Look = Look()) -> PhotoPool:
    """Draws the pool and runs the product's stages on it; what is there already is kept.

    Args:
        folder: where photos and run go.
        photos: a folder of real photos, for the backgrounds.
        seed: of the drawing.
        look: how they are drawn.
    """
    folder = folder.resolve()  # photos are known by where they lie, and a link to a pool is the pool
    index = folder / "index.parquet"
    if not index.is_file():
        drawn = _draw_pool(folder / "photos", photos, np.random.default_rng(seed), look)
        drawn.write_parquet(index)
    config = make_config({"name": "pool", "seed": seed, "dataset": {"root": str(folder / "photos")}})
    run = Run.create(folder / "run", config)
    for name in STAGES_ONCE:
        for part in plan(run, STAGES[name]):
            work(run, STAGES[name], part)
    known = pl.read_parquet(index)
    samples = run.read("samples", columns=["sample_id", "uri", "label"]).join(known, on="uri", maintain_order="left")
    features = _features(folder, [folder / "photos" / uri for uri in samples["uri"]])
    return PhotoPool(run, samples, features, _truth(samples))


def _draw_pool(root: Path, photos: Path, rng: np.random.Generator, look: Look) -> pl.DataFrame:
    from sklearn.datasets import load_digits

    ink, digit = load_digits(return_X_y=True)
    backgrounds = rng.permutation(sorted(str(path) for path in photos.rglob("*.jpg")))
    rows, used = [], 0
    for number, label in enumerate(CLASSES):
        (root / "train" / label).mkdir(parents=True, exist_ok=True)
        (root / "test" / label).mkdir(parents=True, exist_ok=True)
        things = rng.permutation(np.flatnonzero(digit == number))[: look.train + look.audited]
        split = ["train"] * look.train * look.backgrounds + ["test"] * look.audited
        drawn = [*np.repeat(things[: look.train], look.backgrounds), *things[look.train :]]
        for place, (thing, part) in enumerate(zip(drawn, split, strict=True)):
            scene = _scene(ink[thing].reshape(8, 8) / 16, backgrounds[used % len(backgrounds)], rng, look)
            used += 1
            for cue, decoy in _versions(label, part, rng, look):
                uri = f"{part}/{label}/{place:03d}-{cue or 'plain'}-{decoy or 'plain'}.png".replace(" ", "_")
                image, box = _with_cues(scene, cue, decoy, np.random.default_rng([number, place]))
                Image.fromarray(image).save(root / uri, compress_level=1)
                named = {"uri": uri, "split": part, "object": f"{label}-{place}", "cue": cue, "decoy": decoy}
                rows.append(named | dict(zip(PLACE, box, strict=True)))
    return pl.DataFrame(rows)


def _versions(label: str, split: str, rng: np.random.Generator, look: Look) -> list[tuple[str, str]]:
    """Returns the (cue, decoy) that a photo is drawn with: for training all that a model may need, else one."""
    own = CUES[label][0]
    foreign = str(rng.choice([name for name, *_ in CUES.values() if name != own]))
    decoy = str(rng.choice(list(DECOYS)))
    if split == "train":
        shown = ("", decoy) if look.decoy_versions else (str(rng.choice(["", decoy])),)
        return [(cue, there) for cue in ("", own, foreign) for there in shown]
    return [(str(rng.choice([own, foreign, ""], p=[0.35, 0.4, 0.25])), str(rng.choice(["", decoy])))]


def _scene(ink: np.ndarray, background: str, rng: np.random.Generator, look: Look) -> np.ndarray:
    """Draws a dark digit on a faded photo; (S, S, 3) float32."""
    photo = read_image(Path(background), max_pixels=50_000_000)
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    square = cv2.resize(photo[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    scene = 140 + look.contrast * (square.astype(np.float32) - 128)
    size = int(SIDE * rng.uniform(*look.size))
    alpha = np.clip((cv2.resize(ink.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC) - 0.3) / 0.4, 0, 1)
    at = (SIDE - size) // 2
    part = scene[at : at + size, at : at + size]
    part += look.opacity * alpha[..., None] * (30 - part)
    return scene + look.noise * rng.standard_normal(scene.shape, dtype=np.float32)


def _with_cues(
    scene: np.ndarray, cue: str, decoy: str, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Returns the photo with its cues, and the box of the first; the whole photo where it has no place."""
    image, box = np.clip(scene, 0, 255), (0.0, 0.0, float(SIDE), float(SIDE))
    corners = rng.permutation(4)
    for name, corner in ((cue, corners[0]), (decoy, corners[1])):
        if not name:
            continue
        planted = parse_cue(name)
        if planted.family in ("tint", "change"):
            image = change_photo(planted, image)
        elif planted.family == "border":
            image = draw_border(planted, image, next(width for n, _, width in CUES.values() if n == name))
        else:
            image, place = draw_overlay(planted, image, int(corner), rng)
            box = tuple(map(float, place)) if name == cue else box
    return np.clip(np.round(image), 0, 255).astype(np.uint8), box


def _features(folder: Path, paths: list[Path]) -> np.ndarray:
    file = folder / "features.npy"
    if file.is_file():
        return np.load(file)
    encoder = load_encoder("efficientnet_lite0", ComputeConfig())
    view = probe_view(ModelConfig(), encoder).view
    parts = []
    for start in range(0, len(paths), 32):
        views = [view(read_image(path, max_pixels=50_000_000)) for path in paths[start : start + 32]]
        parts.append(encoder.pooled(np.stack(views)))
    np.save(file, np.concatenate(parts))
    return np.load(file)


def _truth(samples: pl.DataFrame) -> pl.DataFrame:
    phrases = [name for name, *_ in CUES.values()] + list(DECOYS)
    parts = [
        samples.select(
            "sample_id", "split", "label", phrase=pl.lit(p), present=(pl.col("cue") == p) | (pl.col("decoy") == p)
        )
        for p in phrases
    ]
    return pl.concat(parts)
