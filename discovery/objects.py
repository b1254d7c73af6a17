"""A run → where the object of each photo is: as the data give it, or as a detector found the name of its class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from discovery.backends.checkpoint import read_choice
from discovery.backends.detector import OPEN_SET, Phrase
from discovery.config import RunConfig
from discovery.regions import Regions, pick
from discovery.run import Run
from discovery.schema import CLASS_ITSELF, OBJECT_BOX
from discovery.thresholds import OTHER, PRIORS, run_thresholds
from discovery.vocabulary import label_names

GIVEN = "given"
"""Source of a box that came with the data; that of another is the name of the detector that drew it."""
BOX = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Place:
    """Where an object is.

    Attributes:
        xyxy: (4,) float32 pixels in the photo.
        source: "given", or the name of the detector that drew it.
    """

    xyxy: np.ndarray
    source: str


def class_phrases(labels: Sequence[str], config: RunConfig) -> list[Phrase]:
    """Returns what the box detector is asked besides the candidate cues: the first name of every class, in order.

    Coarse detectors are not asked: what they draw is no outline of anything.
    """
    if config.ablate.object == GIVEN or read_choice(config.detect.box_detector).name not in OPEN_SET:
        return []
    return [Phrase(label_names(label)[0], "object") for label in labels]


def pick_own(found: Regions, first: int, labels: Sequence[str | None], classes: Sequence[str]) -> Regions:
    """Returns the regions that show what their photo's own class is called.

    Args:
        found: regions whose `phrase` counts the classes from `first` on.
        first: number of the first class.
        labels: of the photos.
        classes: in the order in which their names were asked for.
    """
    number = {label: first + place for place, label in enumerate(classes)}
    own = np.array([number.get(label, -1) for label in labels], np.int64)
    return pick(found, (found.phrase >= first) & (found.phrase == own[found.image]))


def find_objects(run: Run, sample_ids: pl.Series) -> dict[str, Place]:
    """Returns the photos whose object is known, and where it is.

    The data's own box goes first; else it is the best box of the class's name, if its score passes the threshold of
    its detector and it leaves more of the photo than 1 - `ablate.object_area_frac`.

    Args:
        run: holds `samples` and `regions`.
        sample_ids: the photos in question.
    """
    wanted = pl.col("sample_id").is_in(sample_ids.unique().implode())
    given = run.read("samples", columns=["sample_id", *OBJECT_BOX]).filter(wanted).drop_nulls()
    places = {sample_id: _place(box, GIVEN) for sample_id, *box in given.iter_rows()}
    if run.config.ablate.object == GIVEN:
        return places
    drawn = _drawn(run, wanted & ~pl.col("sample_id").is_in(given["sample_id"].implode()))
    if len(drawn):
        limits = _limits(run, drawn["detector"].unique().to_list())
        passes = pl.col("score") >= pl.col("detector").replace_strict(limits, return_dtype=pl.Float64)
        drawn = drawn.filter(passes, pl.col("area_frac") <= run.config.ablate.object_area_frac)
    return places | {row[0]: _place(row[2:6], row[1]) for row in drawn.iter_rows()}


def _drawn(run: Run, wanted: pl.Expr) -> pl.DataFrame:
    """Returns the best box of the class's name in each photo that has one."""
    columns = ["sample_id", "detector", *BOX, "score", "area_frac"]
    parts = [
        part.filter(pl.col("attribute_id") == CLASS_ITSELF, wanted).select(columns)
        for part in run.scan("regions", [*columns, "attribute_id"])
    ]
    found = pl.concat(parts) if parts else pl.DataFrame(schema=columns)
    return found.sort("score", descending=True, maintain_order=True).unique("sample_id", maintain_order=True)


def _limits(run: Run, detectors: Sequence[str]) -> dict[str, float]:
    """Returns the thresholds of detectors; one that saw no candidate cue has the user's, or its prior."""
    found, chosen = run_thresholds(run), run.config.presence.thresholds
    return {
        name: found[name].value if name in found else chosen.get(name, PRIORS.get(name, OTHER).value)
        for name in detectors
    }


def _place(box: Sequence[float], source: str) -> Place:
    return Place(np.array(box, np.float32), source)
