"""Cues, presences and samples of a run → which photos a multimodal LLM is asked about, with a cue and without it."""

import zlib
from collections.abc import Iterable

import numpy as np
import polars as pl

from discovery.config import AskConfig
from discovery.errors import DataError
from discovery.run import Run

OWN, OTHER, MASKED, DROPPED, CHOICE = "own", "other", "masked", "dropped", "choice"
PROBES = (OWN, OTHER, MASKED, DROPPED, CHOICE)
"""Photos of the class; photos of other classes; of the class with the object masked, or its visual tokens dropped; and
photos of other classes with a choice between theirs and this one."""
WHOLE = "whole"
"""What is asked about a photo as it is: the same, whether the class is there or not."""
ON_OBJECT = (MASKED, DROPPED)

SCHEMA = {
    "label": pl.String,
    "cue_id": pl.String,
    "phrase": pl.String,
    "probe": pl.String,
    "sample_id": pl.String,
    "stratum": pl.String,
    "with_cue": pl.Boolean,
}


def draw_photos(
    cues: pl.DataFrame, presences: pl.DataFrame, samples: pl.DataFrame, config: AskConfig, *, core_overlap: float
) -> pl.DataFrame:
    """Draws the photos of every cue and probe: as many with the cue as without it, from the same classes and splits.

    A photo either shows a cue or does not, so the two sides never share one, and no tie of scores is broken. The draw
    depends on the photos' names alone: the sides of different cues share as many photos, and questions, as they can.

    Args:
        cues: the table `cues`; the first `config.cues_per_class` of each class are drawn for.
        presences: the table `presences`.
        samples: the table `samples`.
        config: how many.
        core_overlap: a cue that lies that much in the object is not asked about with the object gone.

    Returns:
        label, cue_id, phrase, probe, sample_id, stratum, with_cue.
    """
    shown = {key[0]: set(part["sample_id"]) for key, part in presences.group_by("cue_id")}
    photos = samples.with_columns(
        stratum=pl.concat_str("label", "split", separator=" / "),
        turn=pl.col("sample_id").map_elements(lambda name: zlib.crc32(name.encode()), return_dtype=pl.Int64),
        boxed=pl.col("object_x0").is_not_null(),
    ).sort("turn", "sample_id")
    rows = []
    first = cues.sort("label", "rank").group_by("label", maintain_order=True).head(config.cues_per_class)
    for cue in first.iter_rows(named=True):
        for probe in _probes(cue, config, core_overlap):
            known = {"label": cue["label"], "cue_id": cue["cue_id"], "phrase": cue["phrase"], "probe": probe}
            pairs = _pairs(_among(photos, cue["label"], probe), shown.get(cue["cue_id"], set()), config.photos)
            rows += [known | pair for pair in pairs]
    return pl.DataFrame(rows, schema=SCHEMA)


def read_draws(run: Run) -> pl.DataFrame:
    """Draws the photos of a finished run that are asked about (see `draw_photos`)."""
    presences = run.read("presences", columns=["cue_id", "sample_id"])
    config, core_overlap = run.config.ask, run.config.rank.core_overlap
    return draw_photos(run.read("cues"), presences, run.read("samples"), config, core_overlap=core_overlap)


def question_id(probe: str, label: str) -> str:
    """Returns the name under which `answers` holds what is asked about a class under a probe."""
    return f"{WHOLE if probe in (OWN, OTHER) else probe}:{label}"


def check_draws(draws: pl.DataFrame) -> None:
    """Raises DataError when there is no photo to ask about."""
    if draws.is_empty():
        raise DataError(
            "no cue of this run is seen in some photos and not in others of the same class and split, so there is "
            "nothing to compare; run it on more photos"
        )


def _probes(cue: dict, config: AskConfig, core_overlap: float) -> Iterable[str]:
    inside = (cue["object_overlap"] or 0.0) >= core_overlap
    for probe in PROBES:
        wanted = {DROPPED: config.drop_tokens, CHOICE: config.choices}.get(probe, True)
        if wanted and not (inside and probe in ON_OBJECT):
            yield probe


def _among(photos: pl.DataFrame, label: str, probe: str) -> pl.DataFrame:
    if probe in (OTHER, CHOICE):
        return photos.filter(pl.col("label") != label)
    own = photos.filter(pl.col("label") == label)
    return own.filter("boxed") if probe in ON_OBJECT else own


def _pairs(photos: pl.DataFrame, shown: set[str], most: int) -> list[dict]:
    """Returns up to `most` photos with the cue and as many without; each stratum gives as many to either side."""
    turns: list[tuple[int, str, str, str]] = []
    for (stratum,), part in photos.group_by("stratum", maintain_order=True):
        names = np.array(part["sample_id"].to_list())
        seen = np.array([name in shown for name in names], bool)
        turns += [
            (turn, stratum, one, two) for turn, (one, two) in enumerate(zip(names[seen], names[~seen], strict=False))
        ]
    return [
        {"sample_id": str(name), "stratum": stratum, "with_cue": with_cue}
        for _, stratum, one, two in sorted(turns)[:most]
        for name, with_cue in ((one, True), (two, False))
    ]
