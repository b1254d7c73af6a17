"""A recipe → images with planted cues and known truth, on disk."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from discovery.errors import DataError
from discovery.planted_recipe import SPLITS, Plant, Recipe, cramers_v, draw_presences, read_recipe
from discovery.planted_scenes import Thing, load_objects, objects_state, render

__all__ = ["Plant", "Planted", "Recipe", "plant", "read_planted", "read_recipe"]

VERSION = 1
"""Part of a set's hash: raised when the same recipe is drawn differently, so that old sets are made anew."""

_PLANTS = {
    "phrase": pl.String,
    "kind": pl.String,
    "role": pl.String,
    "tied_label": pl.String,
    "cramers_v": pl.Float64,
    "achieved_train": pl.Float64,
    "achieved_test": pl.Float64,
}
_BOX = dict.fromkeys(("x0", "y0", "x1", "y1"), pl.Float32)
_TRUTH = {
    **dict.fromkeys(("sample_id", "split", "label", "phrase", "kind", "role", "tied_label"), pl.String),
    "present": pl.Boolean,
    **_BOX,
}


@dataclass(frozen=True)
class Planted:
    """A planted set on disk.

    Attributes:
        root: the folder that holds `train/` and `test/`, to be used as `dataset.root`.
        recipe: what it was made from.
        plants: one row per plant: phrase, kind, role, tied_label, cramers_v as asked for, and achieved_train and
            achieved_test, its values in the images as drawn (null for a decoy).
        truth: one row per image and plant: sample_id, split, label (the image's), phrase, kind, role, tied_label (the
            plant's), present, x0, y0, x1, y1 (pixels; null when absent or without a place).
    """

    root: Path
    recipe: Recipe
    plants: pl.DataFrame
    truth: pl.DataFrame


def plant(recipe: Recipe, out_dir: str | Path) -> Planted:
    """Makes a planted set: `train/<class>/*.png`, `test/<class>/*.png`, and the truth beside them.

    The same recipe gives the same bytes. A folder that already holds this very set is only read.

    Raises:
        ConfigError: the objects do not fit the classes.
        DataError: there are too few objects, or the folder holds something else or cannot be written.
    """
    root = Path(out_dir)
    mark = _mark(recipe)
    try:
        if _mark_on_disk(root) != mark:
            _clear(root)
            _write(recipe, root, mark)
    except OSError as error:
        raise DataError(f"cannot write to {root}: {error.strerror}; choose another folder") from error
    return read_planted(root)


def read_planted(root: str | Path) -> Planted:
    """Reads a planted set back.

    Raises:
        DataError: there is none, or it was not finished.
    """
    root = Path(root)
    if not _mark_on_disk(root):
        raise DataError(f"no finished planted set in {root}; make one: discovery demo")
    about = json.loads((root / "truth.json").read_text(encoding="utf-8"))
    plants = pl.DataFrame(about["plants"], schema=_PLANTS)
    return Planted(root, Recipe(**about["recipe"]), plants, pl.read_parquet(root / "truth.parquet"))


def _mark(recipe: Recipe) -> str:
    text = json.dumps([VERSION, recipe.model_dump(mode="json"), objects_state(recipe)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _mark_on_disk(root: Path) -> str | None:
    """Returns the hash of the finished set in a folder; None when there is none."""
    try:
        return json.loads((root / "truth.json").read_text(encoding="utf-8"))["recipe_hash"]
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, json.JSONDecodeError):
        return None


def _clear(root: Path) -> None:
    """Removes an older or unfinished set; refuses images that were not planted."""
    old = [root / split for split in SPLITS if (root / split).exists()]
    if old and not (root / "truth.json").is_file():
        raise DataError(f"{old[0]} was not planted and is kept; choose an empty folder")
    for folder in old:
        shutil.rmtree(folder)


def _write(recipe: Recipe, root: Path, mark: str) -> None:
    objects = load_objects(recipe)
    root.mkdir(parents=True, exist_ok=True)
    _write_about(root, recipe, None, [])  # claims the folder, so that an unfinished set may be cleared
    rows = [row for split in SPLITS for row in _write_split(recipe, root, split, objects)]
    truth = pl.DataFrame(rows, schema=_TRUTH, orient="row")
    truth.write_parquet(root / "truth.parquet")
    _write_about(root, recipe, mark, [_achieved(item, truth) for item in recipe.plants])


def _write_split(recipe: Recipe, root: Path, split: str, objects: dict[str, list[Thing]]) -> list[tuple[object, ...]]:
    """Writes the images of a split and returns their rows of the truth."""
    first = 0 if split == "train" else recipe.train_per_class
    each = recipe.train_per_class if split == "train" else recipe.test_per_class
    shown = draw_presences(recipe, split)
    rows = []
    for c, label in enumerate(recipe.classes):
        (root / split / label).mkdir(parents=True)
        for i, thing in enumerate(objects[label][first : first + each]):
            number = c * each + i
            scene = render(recipe, thing, shown[number], (SPLITS.index(split), number))
            sample_id = f"{split}/{label}/{i:04d}.png"
            Image.fromarray(scene.image).save(root / sample_id, compress_level=1)
            for item, there, box in zip(recipe.plants, shown[number], scene.boxes, strict=True):
                place = [None] * 4 if box is None else box.tolist()
                what = (item.phrase, item.kind, item.role, item.label)
                rows.append((sample_id, split, label, *what, bool(there), *place))
    return rows


def _achieved(item: Plant, truth: pl.DataFrame) -> dict[str, object]:
    """Returns a plant's row of `Planted.plants`."""
    own = truth.filter(pl.col("phrase") == item.phrase)
    achieved = dict.fromkeys(("achieved_train", "achieved_test"))
    if item.label is not None:
        for split in SPLITS:
            part = own.filter(pl.col("split") == split)
            tied = (part["label"] == item.label).to_numpy()
            achieved[f"achieved_{split}"] = cramers_v(part["present"].to_numpy(), np.asarray(tied))
    what = {"phrase": item.phrase, "kind": item.kind, "role": item.role, "tied_label": item.label}
    return {**what, "cramers_v": item.cramers_v, **achieved}


def _write_about(root: Path, recipe: Recipe, mark: str | None, plants: list[dict[str, object]]) -> None:
    about = {"recipe_hash": mark, "plants": plants, "recipe": recipe.model_dump(mode="json")}
    (root / "truth.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
