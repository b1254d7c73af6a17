"""Picked photos and a cue per class → a copy of the photos with those cues drawn in, and the truth beside it."""

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from discovery.config import DatasetConfig
from discovery.errors import DataError
from discovery.images import map_ahead
from discovery.picked import AUDIT, FIT, read_photo
from discovery.planted import Plant, Planted, Recipe, read_planted
from discovery.planted_cues import change_photo, draw_border, draw_overlay, parse_cue
from discovery.planted_recipe import cramers_v, presence_probs
from discovery.run import file_state

KINDS = {
    "red circle": "object",
    "date stamp": "text",
    "blue border": "border",
    "orange tint": "colour",
    "blurry image": "quality",
    "dark image": "lighting",
}
"""What is planted, and its kind."""
CRAMERS_V = 0.85
OWN_SHARE, OTHER_SHARE = 0.5, 0.25
"""Of a class's audited photos: those that show its own cue, and those that show another class's."""
SEEN_BORDER, LEAST_BORDER = 0.05, 0.08
"""Thickness of a frame, of the shorter side: in what the model sees, and in all."""
_VERSION = 1
"""Raised when the same photos are drawn on differently, so that old copies are made anew."""

Field = Callable[[int, int], np.ndarray]
"""Height and width of a photo → (4,) xyxy part that the model sees: `Classifier.field`."""


@dataclass(frozen=True)
class Copy:
    """What a copy is made from.

    Attributes:
        photos: uri, label, split (`fit` or `audit`).
        plants: one cue per class, in the order of the sorted labels.
        dataset: where the photos are.
        field: what the model sees of a photo: a cue is drawn where it can be seen.
        seed: of which photo shows what, and of the drawing.
    """

    photos: pl.DataFrame
    plants: tuple[Plant, ...]
    dataset: DatasetConfig
    field: Field
    seed: int

    @property
    def mark(self) -> str:
        """A hash that changes with the photos' files, with what is drawn, and with how the model crops."""
        files = [file_state(Path(self.dataset.root) / uri) for uri in self.photos["uri"]]
        seen = [self.field(*size).tolist() for size in ((300, 400), (400, 300))]
        plants = [plant.model_dump() for plant in self.plants]
        text = json.dumps([_VERSION, self.seed, files, self.photos.rows(), plants, seen])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def rounds(labels: list[str]) -> list[tuple[Plant, ...]]:
    """Returns the plants of each copy: one per class, kinds in turn, in as many copies as all kinds take.

    Args:
        labels: sorted; no more than there are kinds.
    """
    phrases, n = list(KINDS), len(labels)
    turns = [[phrases[(turn * n + at) % len(phrases)] for at in range(n)] for turn in range(math.ceil(len(KINDS) / n))]
    return [
        tuple(
            Plant(phrase=phrase, kind=KINDS[phrase], label=label, cramers_v=CRAMERS_V)
            for phrase, label in zip(turn, labels, strict=True)
        )
        for turn in turns
    ]


def draw(plant: Plant, image: np.ndarray, field: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws a cue into a photo where the model can see it.

    Args:
        plant: the cue.
        image: (H, W, 3) uint8.
        field: (4,) xyxy part of the photo that the model sees.
        rng: of size, wording and place.
    """
    cue, pixels = parse_cue(plant.phrase), image.astype(np.float32)
    if cue.family in ("tint", "change"):
        pixels = change_photo(cue, pixels)
    elif cue.family == "border":
        hidden = max(0.0, float(min(field[0], field[1]))) / min(image.shape[:2])
        pixels = draw_border(cue, pixels, max(LEAST_BORDER, hidden + SEEN_BORDER))
    else:
        corner = int(rng.integers(4))
        x0, y0, x1, y1 = np.round(field).astype(int)
        side = min(x1 - x0, y1 - y0)  # drawings are laid out in a square: the one in this corner of what is seen
        left, top = x1 - side if corner in (1, 2) else x0, y1 - side if corner in (2, 3) else y0
        place = np.s_[top : top + side, left : left + side]
        pixels[place] = draw_overlay(cue, pixels[place], corner, rng)[0]
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def plant_copy(copy: Copy, folder: Path) -> Planted:
    """Writes a copy: `images/*.jpg`, `manifest.csv` and the truth; one that is there already is only read.

    A photo shows one planted cue or none. All are saved alike, those without a cue too.

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    mark = copy.mark
    try:
        if _mark_on_disk(folder) != mark:
            if folder.exists() and not (folder / "truth.json").is_file():
                raise DataError(f"{folder} is no planted copy and is kept; choose another --run-dir")
            unfinished = folder.with_name(f"{folder.name}.tmp")
            for old in (unfinished, folder):
                shutil.rmtree(old, ignore_errors=True)
            _write(copy, unfinished, mark)
            unfinished.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}; choose another with --run-dir") from error
    return read_planted(folder)


def draw_shown(photos: pl.DataFrame, plants: tuple[Plant, ...], rng: np.random.Generator) -> np.ndarray:
    """Returns (n,) int: for each photo the number of the cue that it shows, -1 for none; counts are exact.

    In the `fit` photos each cue goes with its class by its Cramér's V.
    """
    recipe = Recipe(classes=tuple(plant.label for plant in plants))
    labels, splits = photos["label"].to_numpy(), photos["split"].to_numpy()
    shown = np.full(len(photos), -1)
    for cue, plant in enumerate(plants):
        own, rest = presence_probs(recipe, plant)
        others = rng.permutation([other for other in range(len(plants)) if other != cue])
        for split, share, foreign in ((FIT, own, rest * len(others)), (AUDIT, OWN_SHARE, OTHER_SHARE)):
            mine = rng.permutation(np.flatnonzero((labels == plant.label) & (splits == split)))
            n_own = round(share * len(mine))
            n_foreign = min(round(foreign * len(mine)), len(mine) - n_own)
            shown[mine[:n_own]] = cue
            shown[mine[n_own : n_own + n_foreign]] = np.resize(others, n_foreign)
    return shown


def _write(copy: Copy, folder: Path, mark: str) -> None:
    (folder / "images").mkdir(parents=True)
    shown = draw_shown(copy.photos, copy.plants, np.random.default_rng([copy.seed, 2]))
    named = copy.photos.with_columns(
        sample_id=pl.format("images/{}.jpg", pl.int_range(pl.len())), shown=pl.Series(shown)
    )

    def save(row: dict) -> None:
        image = read_photo(copy.dataset, row["uri"])
        if row["shown"] >= 0:
            rng = np.random.default_rng([copy.seed, zlib.crc32(row["uri"].encode())])
            image = draw(copy.plants[row["shown"]], image, copy.field(*image.shape[:2]), rng)
        Image.fromarray(image).save(folder / row["sample_id"], quality=95, subsampling=0)

    for _ in map_ahead(save, named.iter_rows(named=True), ahead=4):
        pass
    named.select(pl.col("sample_id").alias("uri"), "label", "split").write_csv(folder / "manifest.csv")
    _truth(named, copy.plants).write_parquet(folder / "truth.parquet")
    recipe = Recipe(name="copy", seed=copy.seed, classes=tuple(p.label for p in copy.plants), plants=copy.plants)
    plants = [_planted(named, cue, plant) for cue, plant in enumerate(copy.plants)]
    about = {"recipe_hash": mark, "plants": plants, "recipe": recipe.model_dump(mode="json")}
    (folder / "truth.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def _truth(named: pl.DataFrame, plants: tuple[Plant, ...]) -> pl.DataFrame:
    about = [
        named.select(
            *("sample_id", "split", "label"),
            phrase=pl.lit(plant.phrase),
            kind=pl.lit(plant.kind),
            role=pl.lit(plant.role),
            tied_label=pl.lit(plant.label),
            present=pl.col("shown") == cue,
        )
        for cue, plant in enumerate(plants)
    ]
    return pl.concat(about)


def _planted(named: pl.DataFrame, cue: int, plant: Plant) -> dict[str, object]:
    """Returns a plant's row of `Planted.plants`."""
    achieved = {}
    for name, split in (("achieved_train", FIT), ("achieved_test", AUDIT)):
        part = named.filter(pl.col("split") == split)
        achieved[name] = cramers_v((part["shown"] == cue).to_numpy(), (part["label"] == plant.label).to_numpy())
    what = {"phrase": plant.phrase, "kind": plant.kind, "role": plant.role, "tied_label": plant.label}
    return {**what, "cramers_v": plant.cramers_v, **achieved}


def _mark_on_disk(folder: Path) -> str | None:
    try:
        return json.loads((folder / "truth.json").read_text(encoding="utf-8"))["recipe_hash"]
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, json.JSONDecodeError):
        return None
