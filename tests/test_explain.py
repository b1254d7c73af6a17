import numpy as np
import polars as pl
import pytest

from discovery.config import RankConfig
from discovery.explain import find_explained
from discovery.run import frame_of

CONFIG = RankConfig()


def found(cue: str, score: float = 0.2, effect: float = 0.3, verdict: str = "spurious", kind: str = "object") -> dict:
    row = {"label": "cow", "cue_id": cue, "phrase": cue, "kind": kind, "verdict": verdict, "score": score}
    return row | {"effect": effect, "removal_effect": effect, "paste_effect": None}


def photos(nets: list[float], covered_by: list[list[str]], *, sharp: bool = True, way: str = "removal") -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for i, (net, cues) in enumerate(zip(nets, covered_by, strict=True)):
        value = net + 0.02 * rng.normal()
        known = {"label": "cow", "cue_id": "x", "sample_id": f"s{i}", "intervention": "blur", "way": way}
        zeros = {"effect_control": 0.0, "logit_effect_control": 0.0, "flipped": False}
        values = {"effect": value, "logit_effect": 6 * value}
        rows.append({**known, **zeros, **values, "covered_by": cues, "sharp": sharp})
    return frame_of("effects", rows)


def explained(rows: list[dict], **effects: pl.DataFrame) -> list[tuple[str, str]]:
    known = {("cow", cue): part for cue, part in effects.items()}
    return [(row["cue_id"], other["cue_id"]) for row, other in find_explained(rows, known, CONFIG)]


ALONE = [[] for _ in range(20)]
WITH_STAMP = [["stamp"]] * 10 + [[]] * 10


def test_a_cue_without_effect_where_the_other_is_missing_is_explained():
    window = photos([0.3] * 10 + [0.0] * 10, WITH_STAMP, sharp=False)
    assert explained([found("window"), found("stamp")], window=window, stamp=photos([0.3] * 20, ALONE)) == [
        ("window", "stamp")
    ]


def test_what_is_core_explains_no_background():
    window, sea = photos([0.3] * 10 + [0.0] * 10, WITH_STAMP, sharp=False), photos([0.3] * 20, ALONE)
    for kind, pairs in (("object", [("window", "stamp")]), ("background", [])):
        rows = [found("window", kind=kind), found("stamp", verdict="core")]
        assert explained(rows, window=window, stamp=sea) == pairs


def test_a_cue_that_acts_without_the_other_stands_alone():
    window = photos([0.3] * 20, WITH_STAMP, sharp=False)
    assert explained([found("window"), found("stamp")], window=window, stamp=photos([0.3] * 20, ALONE)) == []


def test_a_weak_cue_that_is_no_weaker_without_the_other_is_not_explained_by_it():
    # Its effect is not shown in ten photos alone, but nor is it smaller there.
    rng = np.random.default_rng(1)
    window = photos((0.1 + 0.3 * rng.normal(size=20)).tolist(), WITH_STAMP, sharp=False)
    assert explained([found("window"), found("stamp")], window=window, stamp=photos([0.3] * 20, ALONE)) == []


@pytest.mark.parametrize(("sharp", "is_explained"), [(True, True), (False, False)])
def test_without_photos_to_tell_only_an_exact_cue_explains_an_exact_one(sharp, is_explained):
    always = [["stamp"]] * 18 + [[]] * 2
    rows = [found("text"), found("stamp")]
    got = explained(rows, text=photos([0.3] * 20, always), stamp=photos([0.3] * 20, ALONE, sharp=sharp))
    assert got == ([("text", "stamp")] if is_explained else [])


def test_of_two_that_always_go_together_the_exact_one_stays_whatever_the_scores():
    window = photos([0.3] * 20, [["stamp"]] * 20, sharp=False)
    stamp = photos([0.3] * 20, [["window"]] * 20)
    assert explained([found("window", 0.9), found("stamp", 0.1)], window=window, stamp=stamp) == [("window", "stamp")]


def test_of_two_exact_ones_the_narrower_stays():
    text = photos([0.3] * 20, [["stamp"]] * 13 + [[]] * 7)
    stamp = photos([0.3] * 20, [["text"]] * 20)
    assert explained([found("text", 0.9), found("stamp", 0.1)], text=text, stamp=stamp) == [("text", "stamp")]


def test_of_two_names_for_one_thing_the_higher_score_stays():
    one, two = photos([0.3] * 20, [["two"]] * 20), photos([0.3] * 20, [["one"]] * 20)
    assert explained([found("one", 0.1), found("two", 0.2)], one=one, two=two) == [("one", "two")]


def test_cues_that_act_in_opposite_directions_explain_nothing():
    window = photos([0.3] * 10 + [0.0] * 10, WITH_STAMP, sharp=False)
    stamp = photos([-0.3] * 20, ALONE)
    assert explained([found("window"), found("stamp", effect=-0.3)], window=window, stamp=stamp) == []


def test_a_core_cue_explains_and_is_not_explained():
    window = photos([0.3] * 10 + [0.0] * 10, WITH_STAMP, sharp=False)
    rows = [found("window"), found("stamp", verdict="core")]
    stamp = photos([0.3] * 20, [["window"]] * 20)
    assert explained(rows, window=window, stamp=stamp) == [("window", "stamp")]


def test_the_way_that_is_reported_decides():
    removal = photos([0.3] * 20, ALONE, sharp=False)
    paste = photos([0.3] * 10 + [0.0] * 10, WITH_STAMP, sharp=False, way="paste")
    row = found("window") | {"removal_effect": 0.1, "paste_effect": 0.3}
    both = pl.concat([removal, paste])
    assert explained([row, found("stamp")], window=both, stamp=photos([0.3] * 20, ALONE)) == [("window", "stamp")]


def test_a_narrower_cue_that_makes_the_broader_one_stronger_stays_beside_it():
    text = photos([0.6] * 10 + [0.2] * 10, [["stamp"]] * 10 + [[]] * 10)
    stamp = photos([0.6] * 20, [["text"]] * 20)
    assert explained([found("text"), found("stamp")], text=text, stamp=stamp) == []
    even = photos([0.4] * 20, [["stamp"]] * 10 + [[]] * 10)
    assert explained([found("text"), found("stamp")], text=even, stamp=stamp) == [("stamp", "text")]
