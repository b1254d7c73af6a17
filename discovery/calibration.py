"""What runs said of planted cues and of nulls → the smallest effect found, the largest missed, the false runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from scipy import stats

from discovery.grade import REPORTED, PlantGrade, grade, match_cues
from discovery.planted import Planted
from discovery.schema import SCHEMA_VERSION

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Truth:
    """What a planted cue does: the mean change of its class's probability when it is drawn into audited photos.

    Attributes:
        sensor_auc: how well the reaction's sensor tells photos with the cue from the same photos without it; a sensor
            that is blind (0.5) plants no reaction.
        removal: per strength, in photos of the class: what its removal should undo.
        paste: per strength, in photos of other classes: what its paste-in should do.
    """

    sensor_auc: float
    removal: tuple[float, ...]
    paste: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """One planted cue at one strength: what it does, and what the run says.

    Attributes:
        strength: log-odds that the reaction adds when its sensor sees the cue for certain.
        planted: its true effect: where it is found, of the way (removal or paste-in) that is reported; else the larger.
        effect: measured by the run; None when nothing was tried.
        found: reported as spurious for its class, with a positive effect.
        verdict: on the cue that is reported for it, else on the one of its name, else on the one that matches it best.
        reported_as: phrase of that cue; None when no candidate marks its photos.
        planted_removal: see `Truth`.
        planted_paste: see `Truth`.
    """

    strength: float
    planted: float
    effect: float | None
    found: bool
    verdict: str | None
    reported_as: str | None
    planted_removal: float
    planted_paste: float


@dataclass(frozen=True)
class Curve:
    """One planted cue at all strengths.

    Attributes:
        kind: of the cue.
        phrase: as planted.
        label: the class it goes with.
        cramers_v: of cue and class, as drawn.
        sensor_auc: see `Truth`.
        seen: share of the photos with the planted cue in which the run's own candidate of that name is present.
        seen_falsely: the same share of the photos without it.
        points: by strength; the first is strength 0, the model as it is.
    """

    kind: str
    phrase: str
    label: str
    cramers_v: float
    sensor_auc: float
    seen: float
    seen_falsely: float
    points: tuple[Point, ...]

    @property
    def smallest_found(self) -> float | None:
        """The smallest planted effect that was found; None when none was."""
        return smallest_found([self])

    @property
    def largest_missed(self) -> float | None:
        """The largest planted effect that was missed; None when none was."""
        return largest_missed([self])


def smallest_found(curves: Sequence[Curve]) -> float | None:
    """Returns the smallest planted effect that was found, where a reaction was planted; None when none was."""
    return min((point.planted for point in _planted(curves) if point.found), default=None)


def largest_missed(curves: Sequence[Curve]) -> float | None:
    """Returns the largest planted effect that was missed; None when none was."""
    return max((point.planted for point in _planted(curves) if not point.found), default=None)


def _planted(curves: Sequence[Curve]) -> list[Point]:
    return [point for curve in curves for point in curve.points if point.strength > 0]


@dataclass(frozen=True)
class Nulls:
    """Runs in which the model cannot react to any cue as it is marked.

    Attributes:
        reported: per run what it reported as spurious, all of it falsely: rows of label, phrase, kind, effect.
    """

    reported: tuple[tuple[dict, ...], ...]

    @property
    def runs(self) -> int:
        """How many there were."""
        return len(self.reported)

    @property
    def false(self) -> int:
        """Runs that reported anything."""
        return sum(bool(rows) for rows in self.reported)

    @property
    def share_at_most(self) -> float:
        """The one-sided upper bound on the share of such runs, 95 % (Clopper & Pearson 1934); 1 without any run."""
        if self.false == self.runs:
            return 1.0
        return float(stats.beta.ppf(CONFIDENCE, self.false + 1, self.runs - self.false))


@dataclass(frozen=True)
class Calibration:
    """What a run can find, and how often it reports what is not there.

    Attributes:
        name: of the run's configuration.
        model: its kind.
        seed: of everything drawn.
        photos: rows of label, split (`fit`: ties are measured; `audit`: the model is), n.
        left_out: classes without a photo in it.
        curves: one per planted cue.
        nulls: runs with permuted presences.
        already_there: rows of label, phrase, kind, effect that the model as it is is reported for, and that were not
            planted: the photos' own cues.
    """

    name: str
    model: str
    seed: int
    photos: tuple[dict, ...]
    left_out: tuple[str, ...]
    curves: tuple[Curve, ...]
    nulls: Nulls
    already_there: tuple[dict, ...]

    def plain(self) -> dict[str, object]:
        """Returns it as JSON can hold it."""
        nulls = {"runs": self.nulls.runs, "false": self.nulls.false, "share_at_most": self.nulls.share_at_most}
        found = {"smallest_found": smallest_found(self.curves), "largest_missed": largest_missed(self.curves)}
        curves = [
            {**asdict(curve), "smallest_found": curve.smallest_found, "largest_missed": curve.largest_missed}
            for curve in self.curves
        ]
        rows = asdict(self)
        return {"schema_version": SCHEMA_VERSION, **rows, **found, "curves": curves, "nulls": nulls | rows["nulls"]}


def points_of(
    runs: Sequence[pl.DataFrame],
    presences: pl.DataFrame,
    planted: Planted,
    truths: Sequence[Truth],
    at: Sequence[float],
) -> list[tuple[Point, ...]]:
    """Returns for each planted cue what the runs at each strength say of it.

    Args:
        runs: per strength the table `cues`.
        presences: the table, the same for all.
        planted: what was planted.
        truths: for each planted cue what it does.
        at: the strengths.
    """
    grades = [grade(cues, presences, planted).plants for cues in runs]
    return [
        tuple(
            _point(strength, run, graded[cue], (truth.removal[turn], truth.paste[turn]))
            for turn, (strength, run, graded) in enumerate(zip(at, runs, grades, strict=True))
        )
        for cue, truth in enumerate(truths)
    ]


def _point(strength: float, cues: pl.DataFrame, graded: PlantGrade, true: tuple[float, float]) -> Point:
    row = _row(cues, graded)
    effect = row.get("effect")
    by_way = true[0] if effect == row.get("removal_effect") else true[1]
    return Point(
        strength=strength,
        planted=by_way if graded.found else max(true),
        effect=effect,
        found=graded.found,
        verdict=row.get("verdict"),
        reported_as=row.get("phrase"),
        planted_removal=true[0],
        planted_paste=true[1],
    )


def _row(cues: pl.DataFrame, graded: PlantGrade) -> dict:
    """Returns the row of `cues` that is reported for a planted cue; where none is, that of its own name, if any."""
    mine = cues.filter(pl.col("label") == graded.label)
    named = mine.filter(pl.col("phrase") == graded.phrase)
    best = mine.filter(pl.col("rank") == (graded.rank or 0))
    rows = (best if graded.found or not len(named) else named).to_dicts()
    return rows[0] if rows else {}


def seen_in(presences: pl.DataFrame, planted: Planted, phrase: str) -> tuple[float, float]:
    """Returns in which shares of the photos with a planted cue, and of those without it, its phrase is present."""
    marked = presences.filter(pl.col("phrases").list.contains(phrase))["sample_id"].implode()
    photos = planted.truth.filter(pl.col("phrase") == phrase).with_columns(marked=pl.col("sample_id").is_in(marked))
    shares = dict(photos.group_by("present").agg(pl.col("marked").mean()).iter_rows())
    return shares.get(True, 0.0), shares.get(False, 0.0)


def others_reported(cues: pl.DataFrame, presences: pl.DataFrame, planted: Planted) -> list[dict]:
    """Returns label, phrase, kind and effect of the cues reported as spurious that match nothing planted."""
    matched = cues.join(match_cues(cues, presences, planted), on="cue_id", how="left", maintain_order="left")
    return reported(matched.filter(pl.col("planted").is_null()))


def reported(cues: pl.DataFrame) -> list[dict]:
    """Returns label, phrase, kind and effect of the cues reported as spurious."""
    return cues.filter(pl.col("verdict") == REPORTED).select("label", "phrase", "kind", "effect").to_dicts()


def auc(with_cue: np.ndarray, without: np.ndarray) -> float:
    """Returns the chance that a sensor is surer of a photo with its cue than of one without (Mann & Whitney 1947)."""
    above = stats.mannwhitneyu(with_cue, without).statistic
    return float(above / (len(with_cue) * len(without)))
