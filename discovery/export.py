"""Cues and presences → groups and weights: `groups.parquet` and a Waterbirds-style `metadata.csv`."""

import csv
import io
import json
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from discovery.run import Run, Stage, conform
from discovery.schema import SCHEMA_VERSION, TABLES

SPLIT_CODES = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
METADATA_COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
FILES = ("groups.parquet", "metadata.csv", "metadata_legend.json")
MAX_PLACE_CUES = 16
"""Cues that the place code combines: 2 ** 16 places; further ones are in `groups` only."""


def choose_cues(cues: pl.DataFrame, verdicts: tuple[str, ...]) -> pl.DataFrame:
    """Returns (cue_id, phrase), one row per cue with such a verdict in any class, the highest score first."""
    chosen = cues.filter(pl.col("verdict").is_in(list(verdicts)))
    best = chosen.sort("score", "cue_id", descending=[True, False], nulls_last=True)
    return best.unique("cue_id", keep="first", maintain_order=True).select("cue_id", "phrase")


def make_groups(samples: pl.DataFrame, cues: pl.DataFrame, presences: pl.DataFrame) -> pl.DataFrame:
    """Assigns every sample to a group (label × presence) of every exported cue.

    Args:
        samples: sample_id, split, label.
        cues: cue_id, phrase, from `choose_cues`.
        presences: cue_id, sample_id; a row means that the sample shows the cue.

    Returns:
        The table `groups`. Within a cue and split a sample weighs N / (groups × samples of its group):
        each group then weighs the same in all, and the mean weight is 1.
    """
    shown = presences.select("cue_id", "sample_id").unique().with_columns(cue_present=True)
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
    coded = cues.with_row_index("bit").join(presences, on="cue_id").select("sample_id", "bit", "phrase").unique()
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
    parts = [run.read("presences", shard=shard, columns=["cue_id", "sample_id"]).filter(keep) for shard in shards]
    return pl.concat(parts)


def _parquet(groups: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    pq.write_table(conform("groups", groups), file, compression="zstd")
    return file.getvalue()


def _work(run: Run, _shard: int | None) -> pl.DataFrame:
    cues = choose_cues(run.read("cues"), run.config.export.verdicts)
    samples = run.read("samples", columns=["sample_id", "uri", "split", "label"])
    presences = _presences(run, cues["cue_id"])
    groups = make_groups(samples, cues, presences)
    legend = json.dumps(make_legend(samples, cues), indent=1, ensure_ascii=False) + "\n"
    contents = (_parquet(groups), make_metadata(samples, cues, presences).encode(), legend.encode())
    for name, content in zip(FILES, contents, strict=True):
        run.write_bytes(name, content)
    return groups


STAGE = Stage(
    name="export",
    table="groups",
    inputs=("cues", "presences", "samples"),
    config=lambda c: (c.export,),
    work=_work,
    files=FILES,
)
