"""Grading: found, missed, wrongly reported, seen from another class; matched by the photos that a cue marks."""

from pathlib import Path

import polars as pl
import pytest

from discovery.grade import Grade, grade, match_cues
from discovery.planted import Planted, Recipe

CLASSES = ("cat", "dog")
EACH = 8
SAMPLES = [f"{split}/{label}/{i}.png" for split in ("train", "test") for label in CLASSES for i in range(EACH)]
PLANTS = [
    ("red circle", "cue", "cat"),
    ("stripes", "cue", "dog"),
    ("green star", "decoy", None),
    ("rim", "unused", "dog"),
]


def _shows(phrase: str, sample_id: str) -> bool:
    """The train split ties cues to their class; the test split shows each to half of the photos, in its own rhythm."""
    split, label, file = sample_id.split("/")
    number = int(file[:-4])
    place = [name for name, _, _ in PLANTS].index(phrase)
    tied = PLANTS[place][2]
    if split == "train" and tied is not None:
        return label == tied and number != place
    return number >> (place % 3) & 1 == (place == 3)


@pytest.fixture
def planted() -> Planted:
    rows = [
        (sample_id, *sample_id.split("/")[:2], phrase, "object", role, label, _shows(phrase, sample_id))
        for sample_id in SAMPLES
        for phrase, role, label in PLANTS
    ]
    names = ["sample_id", "split", "label", "phrase", "kind", "role", "tied_label", "present"]
    truth = pl.DataFrame(rows, schema=names, orient="row")
    plants = truth.select("phrase", "kind", "role", "tied_label").unique(maintain_order=True)
    plants = plants.with_columns(pl.lit(0.8).alias("achieved_train"))
    return Planted(Path("set"), Recipe(classes=("one", "two")), plants, truth)


def _cues(*rows: tuple) -> pl.DataFrame:
    schema = {
        "label": pl.String,
        "cue_id": pl.String,
        "phrase": pl.String,
        "rank": pl.Int32,
        "verdict": pl.String,
        "effect": pl.Float32,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _presences(**shown: list[str]) -> pl.DataFrame:
    rows = [(cue_id, sample_id) for cue_id, samples in shown.items() for sample_id in samples]
    return pl.DataFrame(rows, schema={"cue_id": pl.String, "sample_id": pl.String}, orient="row")


def _photos_with(phrase: str) -> list[str]:
    return [s for s in SAMPLES if _shows(phrase, s)]


def _plant(graded: Grade, phrase: str):
    return next(plant for plant in graded.plants if plant.phrase == phrase)


def test_cue_is_found_by_the_photos_it_marks_whatever_it_is_called(planted):
    cues = _cues(("cat", "c1", "ketchup stain", 2, "spurious", 0.3))
    graded = grade(cues, _presences(c1=_photos_with("red circle")), planted)
    found = _plant(graded, "red circle")
    assert (found.found, found.reported_as, found.rank, found.verdict) == (True, "ketchup stain", 2, "spurious")
    assert found.effect == pytest.approx(0.3)
    assert (graded.hits, graded.misses, graded.false_reports, graded.quiet) == (1, 1, 0, 2)


def test_photos_decide_before_the_name(planted):
    cues = _cues(("dog", "c1", "red circle", 1, "spurious", 0.3))
    graded = grade(cues, _presences(c1=_photos_with("stripes")), planted)
    assert _plant(graded, "stripes").found
    assert not _plant(graded, "red circle").found


def test_equal_phrase_matches_where_the_photos_decide_nothing(planted):
    cues = _cues(("cat", "c1", "Red  Circle", 1, "spurious", 0.3))
    assert _plant(grade(cues, _presences(), planted), "red circle").found


def test_most_photos_suffice_and_few_do_not(planted):
    cues = _cues(("cat", "c1", "dot", 1, "spurious", 0.3))
    shown = _photos_with("red circle")
    assert _plant(grade(cues, _presences(c1=shown[: len(shown) * 3 // 4 + 1]), planted), "red circle").found
    assert not _plant(grade(cues, _presences(c1=shown[:3]), planted), "red circle").found


def test_what_marks_the_class_itself_is_no_match_for_its_cue(planted):
    cues = _cues(("cat", "c1", "whiskers", 1, "spurious", 0.3))
    graded = grade(cues, _presences(c1=[s for s in SAMPLES if "/cat/" in s]), planted)
    assert not _plant(graded, "red circle").found
    assert graded.wrong.to_dicts() == [
        {
            "label": "cat",
            "phrase": "whiskers",
            "rank": 1,
            "effect": pytest.approx(0.3),
            "why": "matches nothing planted",
        }
    ]


@pytest.mark.parametrize(
    "verdict", ["core", "explained by another cue", "tied, not used", "not enough data", "no evidence"]
)
def test_cue_with_another_verdict_is_missed_and_its_verdict_told(planted, verdict):
    graded = grade(_cues(("cat", "c1", "dot", 4, verdict, 0.3)), _presences(c1=_photos_with("red circle")), planted)
    missed = _plant(graded, "red circle")
    assert (missed.found, missed.verdict, missed.rank) == (False, verdict, 4)
    assert graded.false_reports == 0


def test_cue_that_nothing_matches_is_missed_without_a_verdict(planted):
    missed = _plant(grade(_cues(), _presences(), planted), "stripes")
    assert (missed.found, missed.reported_as, missed.rank, missed.verdict) == (False, None, None, None)


@pytest.mark.parametrize("effect", [-0.2, None])
def test_effect_that_is_not_positive_is_no_find_but_a_wrong_report(planted, effect):
    cues = _cues(("cat", "c1", "dot", 1, "spurious", effect))
    graded = grade(cues, _presences(c1=_photos_with("red circle")), planted)
    assert not _plant(graded, "red circle").found
    assert graded.wrong["why"].to_list() == ["a planted cue, with an effect that is not positive"]


def test_planted_cue_seen_from_another_class_is_neither_found_nor_wrong(planted):
    cues = _cues(("dog", "c1", "dot", 1, "spurious", -0.2))
    graded = grade(cues, _presences(c1=_photos_with("red circle")), planted)
    assert not _plant(graded, "red circle").found
    assert graded.false_reports == 0
    assert graded.from_other_classes.select("label", "phrase").rows() == [("dog", "dot")]


@pytest.mark.parametrize(("phrase", "why"), [("green star", "decoy planted"), ("rim", "unused planted")])
def test_reported_decoys_and_unused_plants_are_wrong(planted, phrase, why):
    cues = _cues(("cat", "c1", "something", 1, "spurious", 0.3))
    graded = grade(cues, _presences(c1=_photos_with(phrase)), planted)
    assert graded.wrong["why"].to_list() == [why]
    assert _plant(graded, phrase).found
    assert graded.quiet == 1


def test_cue_reported_twice_counts_once_at_its_best_rank(planted):
    cues = _cues(("cat", "c1", "dot", 3, "spurious", 0.2), ("cat", "c2", "blob", 1, "spurious", 0.4))
    shown = _photos_with("red circle")
    graded = grade(cues, _presences(c1=shown, c2=shown), planted)
    assert (graded.hits, graded.false_reports, _plant(graded, "red circle").rank) == (1, 0, 1)


def test_one_cue_may_have_a_row_in_every_class(planted):
    cues = _cues(("cat", "c1", "dot", 1, "spurious", 0.2), ("dog", "c1", "dot", 5, "no evidence", 0.0))
    graded = grade(cues, _presences(c1=_photos_with("red circle")), planted)
    assert graded.hits == 1
    assert len(match_cues(cues, _presences(), planted)) == 1


def test_table_has_a_row_per_plant_to_print(planted):
    table = grade(_cues(), _presences(), planted).table()
    assert [row["phrase"] for row in table] == [phrase for phrase, _, _ in PLANTS]
    assert table[0] | {"cramers_v": 0.8, "role": "cue", "label": "cat", "found": False} == table[0]


def test_photos_unknown_to_the_truth_are_ignored(planted):
    cues = _cues(("cat", "c1", "dot", 1, "spurious", 0.3))
    shown = [*_photos_with("red circle"), "elsewhere/x.png"]
    assert grade(cues, _presences(c1=shown), planted).hits == 1
