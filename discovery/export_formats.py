"""Exported cues and their regions → `export/`: COCO, masks as PNG, a Hugging Face imagefolder, easy/hard halves."""

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl

from discovery.errors import DataError
from discovery.regions import draw_mask
from discovery.run import Run
from discovery.schema import WHOLE_IMAGE_KINDS

BOX = ["x0", "y0", "x1", "y1"]
FOLDER = "export"


def write_formats(run: Run, rows: pl.DataFrame, samples: pl.DataFrame, presences: pl.DataFrame) -> None:
    """Writes the formats that `export.formats` asks for into the run's folder `export/`, or removes that folder.

    Args:
        run: the run; its regions are read for boxes and masks, its predictions for the accuracy of splits.
        rows: the exported rows of `cues`.
        samples: sample_id, uri, split, label, width_px, height_px.
        presences: those of the exported cues.
    """
    formats = run.config.export.formats
    if not formats:
        shutil.rmtree(run.path / FOLDER, ignore_errors=True)
        return
    cues = rows.unique("cue_id", keep="first", maintain_order=True).select("cue_id", "phrase", "kind")
    placed = _placed(run, samples, presences) if {"coco", "masks", "imagefolder"} & set(formats) else []

    def fill(folder: Path) -> None:
        if "coco" in formats:
            content = make_coco(samples, cues, placed, presences)
            (folder / "coco.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        if "masks" in formats:
            _write_masks(folder / "masks", placed)
        if "imagefolder" in formats:
            _write_imagefolder(folder / "imagefolder", run, samples, placed, presences)
        if "splits" in formats:
            correct = run.read("predictions", columns=["sample_id", "correct"])
            _write_splits(folder / "splits", rows, samples.join(correct, on="sample_id", how="left"), presences)

    run.write_folder(FOLDER, fill)


def make_coco(samples: pl.DataFrame, cues: pl.DataFrame, placed: list[dict], presences: pl.DataFrame) -> dict[str, Any]:
    """Returns cue regions as COCO's instance annotations.

    Images are all samples, `file_name` relative to the dataset's root. A region with a mask has it as uncompressed run
    lengths at the size of its photo, another one its box as a polygon. Cues of the whole image have no box: they are
    named, with the photos that show them, in `info.whole_image_cues`.

    Args:
        samples: sample_id, uri, width_px, height_px.
        cues: cue_id, phrase, kind.
        placed: rows of a region, its photo and its cue, from `regions`.
        presences: cue_id, sample_id of whole-image cues among others.
    """
    numbers = {sample_id: number for number, sample_id in enumerate(samples["sample_id"], 1)}
    codes = {cue_id: number for number, cue_id in enumerate(cues["cue_id"], 1)}
    shown = presences.group_by("cue_id").agg(pl.col("sample_id").unique().sort())
    shown = dict(shown.iter_rows())
    whole = [
        {**cue, "image_ids": [numbers[name] for name in shown.get(cue["cue_id"], ())]}
        for cue in cues.iter_rows(named=True)
        if cue["kind"] in WHOLE_IMAGE_KINDS
    ]
    return {
        "info": {
            "description": "regions of cues, as detectors found them; not drawn by hand",
            "whole_image_cues": whole,
        },
        "images": [
            {"id": numbers[row["sample_id"]], "file_name": row["uri"], "width": row["width_px"]}
            | {"height": row["height_px"], "sample_id": row["sample_id"], "label": row["label"]}
            for row in samples.iter_rows(named=True)
        ],
        "categories": [
            {"id": codes[row["cue_id"]], "name": row["phrase"], "supercategory": row["kind"], "cue_id": row["cue_id"]}
            for row in cues.iter_rows(named=True)
        ],
        "annotations": [
            {"id": number, "image_id": numbers[row["sample_id"]], "category_id": codes[row["cue_id"]], **_shape(row)}
            for number, row in enumerate((row for row in placed if row["xyxy"] is not None), 1)
        ],
    }


def _shape(row: dict) -> dict[str, Any]:
    x0, y0, x1, y1 = map(float, row["xyxy"])
    shape = {"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0, "score": row["score"], "region_id": row["region_id"]}
    if row["mask_rle"] is None:
        area, corners = (x1 - x0) * (y1 - y0), [[x0, y0, x1, y0, x1, y1, x0, y1]]
        return {**shape, "area": area, "segmentation": corners}
    mask = draw_mask(row["xyxy"], row["mask_rle"], row["size_px"], row["size_px"])
    # COCO counts down the columns, from the zeros on; ours run along the rows.
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    ends = np.flatnonzero(np.diff(flat, append=~flat[-1]))
    counts = np.diff(ends, prepend=0).tolist()
    return {**shape, "area": float(mask.sum()), "segmentation": {"size": list(mask.shape), "counts": counts}}


def _placed(run: Run, samples: pl.DataFrame, presences: pl.DataFrame) -> list[dict]:
    """Returns one row per region of an exported cue, photo by photo, in the order of the samples."""
    named = presences.select("cue_id", "sample_id", "phrase", "kind", "region_ids").explode("region_ids")
    named = named.rename({"region_ids": "region_id"}).drop_nulls("region_id").unique(["cue_id", "region_id"])
    columns = ["region_id", *BOX, "score", "mask_rle"]
    wanted = named["region_id"].unique().implode()
    parts = [part.filter(pl.col("region_id").is_in(wanted)) for part in run.scan("regions", columns)]
    if not parts:
        return []
    order = samples.select("sample_id", "uri", "width_px", "height_px").with_row_index("place")
    found = named.join(pl.concat(parts), on="region_id").join(order, on="sample_id")
    rows = []
    for row in found.sort("place", "cue_id", "region_id").iter_rows(named=True):
        corners = [row.pop(name) for name in BOX]
        xyxy = None if None in corners else np.array(corners, np.float32)
        rows.append({**row, "xyxy": xyxy, "size_px": (row["height_px"], row["width_px"])})
    return rows


def _write_masks(folder: Path, placed: list[dict]) -> None:
    """Writes one PNG per photo and cue with a place, 255 where the cue is, and `masks.csv`, which names them."""
    folder.mkdir()
    with (folder / "masks.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["uri", "cue_id", "phrase", "mask"])
        for (cue_id, _), regions in _by(placed, "cue_id", "sample_id"):
            drawn = [draw_mask(r["xyxy"], r["mask_rle"], r["size_px"], r["size_px"]) for r in regions if _has_place(r)]
            if not drawn:
                continue
            path = folder / f"{_slug(regions[0]['phrase'])}-{cue_id[:6]}" / f"{regions[0]['uri']}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            done, png = cv2.imencode(".png", np.logical_or.reduce(drawn).astype(np.uint8) * 255)
            if not done:
                raise DataError(f"cannot write a mask of {regions[0]['uri']} as PNG")
            path.write_bytes(png.tobytes())
            name = path.relative_to(folder).as_posix()
            writer.writerow([regions[0]["uri"], cue_id, regions[0]["phrase"], name])


def _write_imagefolder(
    folder: Path, run: Run, samples: pl.DataFrame, placed: list[dict], presences: pl.DataFrame
) -> None:
    """Writes a folder per split with links to its photos and the `metadata.jsonl` that Hugging Face `datasets` reads.

    `file_name` is relative to that file. `cues` holds the phrases that the photo shows, `objects` the boxes (COCO's
    x, y, width, height) of those that have a place.
    """
    boxes = {key[0]: rows for key, rows in _by([row for row in placed if _has_place(row)], "sample_id")}
    shown = presences.group_by("sample_id").agg(pl.col("phrase").unique().sort())
    phrases = dict(shown.iter_rows())
    root = Path(run.config.dataset.root).resolve()
    for (split,), part in samples.sort("uri").group_by("split", maintain_order=True):
        home = folder / _slug(split or "all")
        home.mkdir(parents=True)
        with (home / "metadata.jsonl").open("w", encoding="utf-8") as file:
            for row in part.iter_rows(named=True):
                _place_photo(root / row["uri"], home / row["uri"], run.config.export.photos)
                record = {"file_name": row["uri"], "label": row["label"], "sample_id": row["sample_id"]}
                record["cues"] = phrases.get(row["sample_id"], [])
                record["objects"] = _objects(boxes.get(row["sample_id"], []))
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _place_photo(source: Path, target: Path, how: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if how == "copy":
        shutil.copyfile(source, target)
        return
    try:
        os.symlink(source, target)
    except (OSError, NotImplementedError) as error:
        raise DataError(f"cannot link to photos here ({error}); set export.photos = 'copy'") from error


def _objects(regions: list[dict]) -> dict[str, list]:
    shapes = [[float(v) for v in (x0, y0, x1 - x0, y1 - y0)] for x0, y0, x1, y1 in (r["xyxy"] for r in regions)]
    return {"bbox": shapes, "category": [r["phrase"] for r in regions], "score": [r["score"] for r in regions]}


def _write_splits(folder: Path, rows: pl.DataFrame, samples: pl.DataFrame, presences: pl.DataFrame) -> None:
    """Writes an easy/hard manifest per class and cue, and `splits.csv` with the accuracy of each half.

    After CounterAnimal (Wang et al. 2024): a class's photos in its common group, in which the cue speaks for the class,
    are easy, those of the counter group hard. For a cue that speaks against the class, those without it are easy.
    """
    folder.mkdir()
    summary = []
    for row in rows.iter_rows(named=True):
        own = samples.filter(pl.col("label") == row["label"])
        shown = presences.filter(pl.col("cue_id") == row["cue_id"])["sample_id"].unique()
        with_cue = pl.col("sample_id").is_in(shown.implode())
        easy = with_cue if (row["effect"] or row["gap"] or 0.0) >= 0 else ~with_cue
        halves = own.with_columns(subset=pl.when(easy).then(pl.lit("easy")).otherwise(pl.lit("hard")))
        name = f"{_slug(row['label'])}-{_slug(row['phrase'])}-{row['cue_id'][:6]}.csv"
        halves.select("uri", "label", split="subset", dataset_split="split").write_csv(folder / name)
        record = {"file": name, "label": row["label"], "cue_id": row["cue_id"], "phrase": row["phrase"]}
        for half in ("easy", "hard"):
            audited = halves.filter(subset=half)["correct"].drop_nulls()
            record |= {f"n_{half}": int((halves["subset"] == half).sum()), f"n_{half}_audited": len(audited)}
            record[f"accuracy_{half}"] = audited.mean()
        summary.append(record)
    pl.DataFrame(summary, infer_schema_length=None).write_csv(folder / "splits.csv")


def _has_place(row: dict) -> bool:
    return row["xyxy"] is not None or row["mask_rle"] is not None


def _by(rows: list[dict], *keys: str) -> Iterator[tuple[tuple, list[dict]]]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from groups.items()


def _slug(text: str) -> str:
    """Returns a name that any file system takes."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "_"
