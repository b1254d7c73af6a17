"""Cues and presences → groups and weights: `groups.parquet`, a Waterbirds-style `metadata.csv`, and `export/`."""

import csv
import difflib
import io
import json
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from discovery.config import ExportConfig
from discovery.errors import ConfigError
from discovery.export_formats import write_formats
from discovery.run import Run, Stage, conform
from discovery.schema import SCHEMA_VERSION, TABLES

SPLIT_CODES = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
METADATA_COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
FILES = ("groups.parquet", "metadata.csv", "metadata_legend.json")
PRESENCE = ["cue_id", "sample_id", "phrase", "kind", "score", "region_ids"]
MAX_PLACE_CUES = 16
"""Cues that the place code combines: 2 ** 16 places; further ones are in `groups` only."""


def choose_rows(cues: pl.DataFrame, config: ExportConfig) -> pl.DataFrame:
    """Returns the rows of `cues` that are exported: those named in `cues`, else those with one of `verdicts`.

    A name is a cue's id or phrase, for every class, or `class: phrase` (or `class: id`) for one class.

    Raises:
        ConfigError: a name fits no cue of the run.
    """
    if not config.cues:
        return cues.filter(pl.col("verdict").is_in(list(config.verdicts)))
    names = [
        {row["cue_id"], row["phrase"], f"{row['label']}: {row['phrase']}", f"{row['label']}: {row['cue_id']}"}
        for row in cues.select("label", "cue_id", "phrase").iter_rows(named=True)
    ]
    known = set().union(*names)
    for name in config.cues:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known - {None}), 3)
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else "see: discovery cues RUN_DIR"
            raise ConfigError(f"export.cues: no cue of this run is called {name!r}; {hint}")
    wanted = set(config.cues)
    return cues.filter(pl.Series([bool(wanted & own) for own in names], dtype=pl.Boolean))


def choose_cues(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns (cue_id, phrase), one row per cue of some rows of `cues`, the highest score in any class first."""
    best = rows.sort("score", "cue_id", descending=[True, False], nulls_last=True)
    return best.unique("cue_id", keep="first", maintain_order=True).select("cue_id", "phrase")


def make_groups(samples: pl.DataFrame, cues: pl.DataFrame, presences: pl.DataFrame) -> pl.DataFrame:
    """Assigns every sample to a group (label × presence) of every exported cue.

    Args:
        samples: sample_id, split, label.
        cues: cue_id, phrase, from `choose_cues`.
        presences: cue_id, sample_id, score; a row means that the sample shows the cue.

    Returns:
        The table `groups`. Within a cue and split a sample weighs N / (groups × samples of its group):
        each group then weighs the same in all, and the mean weight is 1.
    """
    shown = presences.group_by("cue_id", "sample_id").agg(pl.col("score").max()).with_columns(cue_present=True)
    pairs = cues.join(samples.select("sample_id", "split", "label"), how="cross")
    pairs = pairs.join(shown, on=["cue_id", "sample_id"], how="left").with_columns(
        pl.col("cue_present").fill_null(False)
    )
    present = pl.col("cue_present").cast(pl.Int8)
    grouped = pairs.with_columns(group=pl.format("{}|{}|{}", "label", "phrase", present))
    share = ["cue_id", "split"]
    groups = pl.col("group").n_unique().over(share)
    weight = pl.len().over(share) / (groups * pl.len().over([*share, "group"]))
    return grouped.with_columns(weight=weight).select(TABLES["groups"].names)


def make_metadata(samples: pl.DataFrame, cues: pl.DataFrame, presences: pl.DataFrame) -> str:
    """Renders `metadata.csv` as group_DRO and DFR read it; `make_legend` names its codes.

    Args:
        samples: sample_id, uri, split, label.
        cues: cue_id, phrase, from `choose_cues`; cue i sets bit i of `place`.
        presences: cue_id, sample_id.
    """
    cues = cues.head(MAX_PLACE_CUES)
    codes = {label: code for code, label in enumerate(_labels(samples))}
    coded = (
        cues.with_row_index("bit")
        .join(presences.select("cue_id", "sample_id"), on="cue_id")
        .select("sample_id", "bit", "phrase")
        .unique()
    )
    place = (pl.lit(1, pl.Int64) * 2 ** pl.col("bit").cast(pl.Int64)).sum()
    places = coded.sort("bit").group_by("sample_id", maintain_order=True).agg(place=place, names=pl.col("phrase"))
    rows = samples.join(places, on="sample_id", how="left", maintain_order="left")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(METADATA_COLUMNS)
    for number, row in enumerate(rows.iter_rows(named=True)):
        split = SPLIT_CODES.get((row["split"] or "").lower(), 0)
        names = "; ".join(row["names"] or []) or "none"
        writer.writerow([number, row["uri"], codes[row["label"]], split, row["place"] or 0, names])
    return file.getvalue()


def make_legend(samples: pl.DataFrame, cues: pl.DataFrame) -> dict[str, Any]:
    """Returns what the integers of `metadata.csv` stand for."""
    return {
        "schema_version": SCHEMA_VERSION,
        "y": dict(enumerate(_labels(samples))),
        "split": {"0": "train", "1": "val", "2": "test"},
        "place": {
            "meaning": "bit i is set where the photo shows cue i; 0 shows none",
            "cues": [{"bit": bit, **row} for bit, row in enumerate(cues.head(MAX_PLACE_CUES).to_dicts())],
            "left_out": cues[MAX_PLACE_CUES:].to_dicts(),
        },
    }


def _labels(samples: pl.DataFrame) -> list[str]:
    return samples["label"].unique().sort().to_list()


def _presences(run: Run, cue_ids: pl.Series) -> pl.DataFrame:
    keep = pl.col("cue_id").is_in(cue_ids.to_list())
    shards = range(max(1, len(run.parts("presences"))))
    parts = [run.read("presences", shard=shard, columns=PRESENCE).filter(keep) for shard in shards]
    return pl.concat(parts)


def _parquet(groups: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    pq.write_table(conform("groups", groups), file, compression="zstd")
    return file.getvalue()


def _work(run: Run, _shard: int | None) -> pl.DataFrame:
    rows = choose_rows(run.read("cues"), run.config.export)
    cues = choose_cues(rows)
    samples = run.read("samples", columns=["sample_id", "uri", "split", "label", "audit", "width_px", "height_px"])
    presences = _presences(run, cues["cue_id"])
    groups = make_groups(samples, cues, presences)
    legend = json.dumps(make_legend(samples, cues), indent=1, ensure_ascii=False) + "\n"
    contents = (_parquet(groups), make_metadata(samples, cues, presences).encode(), legend.encode())
    for name, content in zip(FILES, contents, strict=True):
        run.write_bytes(name, content)
    write_formats(run, rows, samples, presences)
    return groups


STAGE = Stage(
    name="export",
    table="groups",
    inputs=("cues", "presences", "samples", "predictions", "regions"),
    config=lambda c: (c.export,),
    work=_work,
    files=FILES,
)
