"""Cues of a run + what was planted → what was found, missed and wrongly reported."""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from discovery.planted import Planted

MATCH_PHI = 0.5
"""Correlation within classes from which a reported cue marks the same photos as a plant."""
REPORTED = "spurious"


@dataclass(frozen=True)
class PlantGrade:
    """What became of one plant.

    Attributes:
        phrase: as planted.
        kind: as planted.
        label: the class it goes with; None for a decoy.
        cramers_v: as drawn in the train split; None for a decoy.
        role: cue, decoy or unused.
        found: reported as spurious; for its own class and with a positive effect if it is a cue, else for any class.
        reported_as: phrase of the cue that matches it best; None when none does. So are the three below.
        rank: of that cue in its class.
        effect: of that cue.
        verdict: on that cue.
    """

    phrase: str
    kind: str
    label: str | None
    cramers_v: float | None
    role: str
    found: bool
    reported_as: str | None
    rank: int | None
    effect: float | None
    verdict: str | None


@dataclass(frozen=True)
class Grade:
    """How well a run did on a planted set.

    Attributes:
        plants: one per plant, in the recipe's order.
        wrong: (label, phrase, rank, effect, why) rows reported as spurious though they are not.
        from_other_classes: (label, phrase, rank, effect) rows of a planted cue, seen from a class it is not tied to.
    """

    plants: tuple[PlantGrade, ...]
    wrong: pl.DataFrame
    from_other_classes: pl.DataFrame

    @property
    def hits(self) -> int:
        """Planted cues that were found."""
        return sum(plant.role == "cue" and plant.found for plant in self.plants)

    @property
    def misses(self) -> int:
        """Planted cues that were not found."""
        return sum(plant.role == "cue" and not plant.found for plant in self.plants)

    @property
    def quiet(self) -> int:
        """Decoys and unused plants that were rightly not reported."""
        return sum(plant.role != "cue" and not plant.found for plant in self.plants)

    @property
    def false_reports(self) -> int:
        """Rows wrongly reported as spurious."""
        return len(self.wrong)

    def table(self) -> list[dict[str, object]]:
        """Returns one dict per plant, to be printed."""
        return [asdict(plant) for plant in self.plants]


def grade(cues: pl.DataFrame, presences: pl.DataFrame, planted: Planted) -> Grade:
    """Compares a run's verdicts with what was planted.

    A reported cue is matched to a plant by the photos it marks: the correlation of the two presences within classes,
    phi, must reach `MATCH_PHI`. A phrase equal to the plant's matches where no plant marks the same photos. Within
    classes, because a cue and its class occur together: what marks the object itself is no match for the cue.

    Args:
        cues: the `cues` table.
        presences: the `presences` table.
        planted: the set that the run was made on.
    """
    rows = _judged(cues, match_cues(cues, presences, planted), planted.plants)
    reported = rows.filter("reported").sort("label", "rank")
    is_cue = (pl.col("role") == "cue").fill_null(value=False)
    elsewhere = is_cue & ~pl.col("own")
    right = is_cue & pl.col("own") & pl.col("positive")
    why = (
        pl.when(pl.col("role").is_null())
        .then(pl.lit("matches nothing planted"))
        .when(is_cue)
        .then(pl.lit("a planted cue, with an effect that is not positive"))
        .otherwise(pl.format("{} planted", "role"))
    )
    shown = ("label", "phrase", "rank", "effect")
    return Grade(
        plants=tuple(_grade_plant(plant, rows) for plant in planted.plants.iter_rows(named=True)),
        wrong=reported.filter(~right & ~elsewhere).select(*shown, why.alias("why")),
        from_other_classes=reported.filter(elsewhere).select(shown),
    )


def match_cues(cues: pl.DataFrame, presences: pl.DataFrame, planted: Planted) -> pl.DataFrame:
    """Matches every cue to the plant that it marks.

    Returns:
        Columns cue_id, planted (the plant's phrase, null for none) and phi (null where only the phrase matches).
    """
    names = planted.plants["phrase"].to_list()
    by_words = {_words(name): name for name in names}
    wanted = cues.select("cue_id", "phrase").unique("cue_id", maintain_order=True)
    phi = _phi_within_classes(wanted["cue_id"], presences, planted)
    rows = []
    for (cue_id, phrase), row in zip(wanted.iter_rows(), phi, strict=True):
        best = int(np.argmax(row)) if len(names) else -1
        if best >= 0 and row[best] >= MATCH_PHI:
            rows.append((cue_id, names[best], float(row[best])))
        else:
            rows.append((cue_id, by_words.get(_words(phrase)), None))
    schema = {"cue_id": pl.String, "planted": pl.String, "phi": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _phi_within_classes(cue_ids: pl.Series, presences: pl.DataFrame, planted: Planted) -> np.ndarray:
    """Returns (cues, plants) correlations of presences after each class's own mean, split by split, is taken out."""
    truth = planted.truth
    samples = truth.select("sample_id", "split", "label").unique("sample_id", maintain_order=True)
    number = {name: i for i, name in enumerate(samples["sample_id"])}
    true = np.zeros((len(planted.plants), len(samples)))
    for i, phrase in enumerate(planted.plants["phrase"]):
        there = truth.filter((pl.col("phrase") == phrase) & pl.col("present"))
        true[i, [number[name] for name in there["sample_id"]]] = 1
    seen = np.zeros((len(cue_ids), len(samples)))
    row = {cue_id: i for i, cue_id in enumerate(cue_ids)}
    for cue_id, name in presences.select("cue_id", "sample_id").iter_rows():
        if cue_id in row and name in number:
            seen[row[cue_id], number[name]] = 1
    groups = samples.select(pl.struct("split", "label").rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()
    true, seen = _centred(true, groups), _centred(seen, groups)
    norms = np.linalg.norm(seen, axis=1)[:, None] * np.linalg.norm(true, axis=1)[None, :]
    return np.where(norms > 1e-9, seen @ true.T / np.maximum(norms, 1e-9), 0.0)


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    member = np.eye(int(groups.max(initial=-1)) + 1)[groups]
    return values - (values @ member / np.maximum(member.sum(axis=0), 1)) @ member.T


def _judged(cues: pl.DataFrame, matches: pl.DataFrame, plants: pl.DataFrame) -> pl.DataFrame:
    """Adds to each row of `cues` the plant it matches, and whether it is reported, of that plant's class, positive."""
    roles = plants.select(pl.col("phrase").alias("planted"), "role", "tied_label")
    rows = cues.join(matches, on="cue_id", how="left", maintain_order="left")
    rows = rows.join(roles, on="planted", how="left", maintain_order="left")
    return rows.with_columns(
        reported=(pl.col("verdict") == REPORTED).fill_null(value=False),
        own=(pl.col("label") == pl.col("tied_label")).fill_null(value=False),
        positive=(pl.col("effect") > 0).fill_null(value=False),
    )


def _grade_plant(plant: dict[str, object], rows: pl.DataFrame) -> PlantGrade:
    """Judges one plant by the row that matches it best: reported before not, positive before negative, then by rank."""
    is_cue = plant["role"] == "cue"
    mine = rows.filter((pl.col("planted") == plant["phrase"]) & (pl.col("own") | pl.lit(not is_cue)))
    best = mine.sort("reported", "positive", "own", -pl.col("rank"), descending=True, nulls_last=True).head(1)
    top = best.to_dicts()[0] if len(best) else {}
    return PlantGrade(
        phrase=plant["phrase"],
        kind=plant["kind"],
        label=plant["tied_label"],
        cramers_v=plant["achieved_train"],
        role=plant["role"],
        found=bool(top) and top["reported"] and (top["positive"] or not is_cue),
        reported_as=top.get("phrase"),
        rank=top.get("rank"),
        effect=top.get("effect"),
        verdict=top.get("verdict"),
    )


def _words(phrase: str) -> str:
    return " ".join(phrase.lower().split())
