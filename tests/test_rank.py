import numpy as np
import polars as pl
import pytest

from discovery.config import AblateConfig, RankConfig
from discovery.rank import rank
from discovery.run import frame_of
from discovery.schema import VERDICTS

CONFIG = RankConfig(bootstrap=200)
ABLATION = AblateConfig(looks=1)


def association(**changes) -> dict:
    return {
        **{"label": "cow", "cue_id": "grass", "phrase": "grass", "kind": "background", "source": "attribute"},
        **{"n_with": 90, "n_without": 10, "prevalence": 0.9, "prevalence_rest": 0.1, "bias_z": 12.0, "cramers_v": 0.8},
        **{"bias_p": 1e-30, "n_audit_with": 40, "n_audit_without": 10, "gap": 0.3, "gap_low": 0.1, "gap_high": 0.5},
        **{"gap_p": 0.01, "gap_p_maxt": 0.02, "detectable_gap": 0.2, "hallucination_gap": 0.1},
        **changes,
    }


UNTIED = {"bias_p": 1.0, "gap_p_maxt": 1.0}


def effects(net: float, n: int = 30, *, cue: str = "grass", spread: float = 0.05, **changes) -> list[dict]:
    """Returns removals of a cue from n photos, by two fills each."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        for name in ("blur", "mean"):
            value = net + spread * rng.normal()
            rows.append(
                {
                    **{"label": "cow", "cue_id": cue, "sample_id": f"s{i}", "intervention": name, "area_frac": 0.2},
                    **{"way": "removal", "n_forwards": 2, "covered_by": []},
                    **{"prob_before": 0.9, "prob_after": 0.9 - value, "prob_control": 0.9, "effect": value},
                    **{"effect_control": 0.0, "logit_effect": 8 * value, "logit_effect_control": 0.0},
                    **{"flipped": value > 0.4, "object_overlap": None},
                    **changes,
                }
            )
    return rows


def pasted(net: float, n: int = 30, **changes) -> list[dict]:
    """Returns paste-ins of a cue into n photos of other classes."""
    rows = effects(net, n, way="paste", **changes)
    return [row | {"sample_id": f"t{i}", "intervention": "paste"} for i, row in enumerate(rows[::2])]


def ranked(associations: list[dict], rows: list[dict], ablation: AblateConfig = ABLATION) -> pl.DataFrame:
    return rank(frame_of("associations", associations), frame_of("effects", rows), CONFIG, ablation, 0)


def only(associations: list[dict], rows: list[dict], ablation: AblateConfig = ABLATION) -> dict:
    return ranked(associations, rows, ablation).row(0, named=True)


def verdict_of(found: pl.DataFrame, cue_id: str) -> str:
    return found.filter(cue_id=cue_id)["verdict"].item()


def test_tied_and_used_is_spurious():
    found = only([association()], effects(0.3))
    assert found["verdict"] == "spurious"
    assert found["effect_low"] < found["effect"] < found["effect_high"]
    assert found["effect"] == pytest.approx(0.3, abs=0.03)
    assert "speaks for the class" in found["reason"]
    assert found["n_pasted"] == 0
    assert found["paste_effect"] is None


def test_paste_in_alone_makes_a_cue_used():
    found = only([association(n_audit_with=2)], pasted(0.2))
    assert found["verdict"] == "spurious"
    assert found["effect"] == found["paste_effect"] == pytest.approx(0.2, abs=0.03)
    assert (found["n_ablated"], found["n_pasted"], found["removal_effect"]) == (0, 30, None)
    assert "pasting it into photos of other classes moves the probability by +0." in found["reason"]


def test_the_clearer_way_is_reported_beside_both():
    found = only([association()], effects(0.06, spread=0.2) + pasted(0.2))
    assert found["paste_p"] < found["removal_p"]
    assert (found["effect"], found["effect_low"]) == (found["paste_effect"], found["paste_low"])
    assert found["p_used"] == pytest.approx(2 * found["paste_p"])
    assert found["removal_q"] == pytest.approx(found["removal_p"])


def test_ways_that_contradict_are_said_and_no_finding():
    found = only([association()], effects(0.3) + pasted(-0.2))
    assert found["verdict"] == "not enough data"
    assert "removal (+0.3" in found["reason"]
    assert "paste-in (-0.2" in found["reason"]
    assert "disagree" in found["reason"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_used_but_not_tied_or_tied_the_other_way_is_not_tied_here(sign):
    tie = UNTIED if sign > 0 else {"bias_z": -9.0}
    found = only([association(**tie)], effects(0.3) + pasted(0.3))
    assert found["verdict"] == "used, not tied here"
    assert ("the other way round" in found["reason"]) == (sign < 0)


def test_tied_and_surely_without_effect_is_tied_not_used():
    found = only([association()], effects(0.0, spread=0.01) + pasted(0.0, spread=0.01))
    assert found["verdict"] == "tied, not used"
    assert "for certain" in found["reason"]


def test_a_gap_and_surely_without_effect_is_gap_not_used():
    found = only([association(bias_p=0.5, gap_p_maxt=0.001)], effects(0.0, spread=0.01))
    assert found["verdict"] == "gap, not used"
    assert "Accuracy differs by +0.30" in found["reason"]


def test_a_gap_between_splits_alone_is_no_tie():
    found = only([association(bias_p=0.5, gap_p=1e-9, gap_p_maxt=0.9)], effects(0.0, spread=0.01))
    assert found["verdict"] == "no evidence"


@pytest.mark.parametrize("rows", [effects(0.0, spread=0.3), effects(0.0, spread=0.01) + pasted(0.0, spread=0.3)])
def test_an_interval_too_wide_to_say_is_not_enough_data(rows):
    found = only([association()], rows)
    assert found["verdict"] == "not enough data"
    assert "too wide" in found["reason"]


def test_an_effect_too_small_to_matter_does_not_count():
    found = only([association()], effects(0.01, spread=0.001))
    assert found["p_used"] < 0.01
    assert found["verdict"] == "tied, not used"


def test_what_moves_as_much_as_its_control_is_not_used():
    rows = [
        row | {"effect_control": row["effect"], "logit_effect_control": row["logit_effect"]} for row in effects(0.3)
    ]
    assert only([association()], rows)["verdict"] == "tied, not used"


def test_interventions_that_point_apart_are_said():
    rows = effects(0.3)
    for row in rows:
        if row["intervention"] == "mean":
            row["logit_effect"] = -0.4
            row["effect"] = -0.05
    found = only([association()], rows)
    assert found["verdict"] == "not enough data"
    assert "disagree" in found["reason"]
    assert not found["fills_agree"]


@pytest.mark.parametrize(("changes", "overlap"), [({"core_reason": "the class itself"}, None), ({}, 0.9)])
def test_a_part_of_the_object_is_core(changes, overlap):
    found = only([association(**changes)], effects(0.3, object_overlap=overlap))
    assert found["verdict"] == "core"


def test_few_photos_are_not_enough_data_whatever_they_show():
    found = only([association()], effects(0.5, n=4))
    assert found["verdict"] == "not enough data"
    assert "0.20 could not have been seen" in found["reason"]


def test_a_cue_that_was_never_seen_is_not_enough_data():
    nothing = dict.fromkeys(("bias_p", "bias_z", "cramers_v", "gap_p", "gap_p_maxt", "gap"))
    found = only([association(n_with=0, n_audit_with=0, **nothing)], [])
    assert found["verdict"] == "not enough data"
    assert found["q_value"] is None
    assert found["n_forwards_saved"] == 0


def test_a_cue_that_speaks_against_the_class_keeps_its_sign_and_comes_last():
    against = association(cue_id="sea", phrase="sea", bias_z=-9.0, gap=-0.3, prevalence=0.2, prevalence_rest=0.8)
    found = ranked([against, association()], effects(0.2) + effects(-0.4, cue="sea"))
    assert found["phrase"].to_list() == ["grass", "sea"]
    assert found["verdict"].to_list() == ["spurious", "spurious"]
    assert found["effect"][1] < 0
    assert "against the class" in found["reason"][1]


def test_verdicts_come_in_the_order_of_the_schema():
    cues = {
        "a": (UNTIED, effects(0.0, spread=0.01, cue="a")),
        "b": ({}, effects(0.0, spread=0.01, cue="b")),
        "c": (UNTIED, effects(0.3, cue="c")),
        "d": ({"core_reason": "a part"}, effects(0.3, cue="d")),
        "e": ({}, effects(0.3, cue="e")),
    }
    rows = [row for _, part in cues.values() for row in part]
    found = ranked([association(cue_id=cue, **tie) for cue, (tie, _) in cues.items()], rows)
    assert found["cue_id"].to_list() == ["e", "d", "c", "b", "a"]
    places = [VERDICTS.index(verdict) for verdict in found["verdict"]]
    assert places == sorted(set(places))


def test_having_tried_many_raises_the_bar():
    weak = association(bias_p=0.02, gap_p_maxt=1.0)
    others = [association(cue_id=str(i), **UNTIED) for i in range(50)]
    alone = only([weak], effects(0.3))
    among = next(r for r in ranked([weak, *others], effects(0.3)).iter_rows(named=True) if r["cue_id"] == "grass")
    assert alone["verdict"] == "spurious"
    assert among["q_value"] > 0.05
    assert among["verdict"] == "used, not tied here"


def test_pure_noise_is_reported_in_few_runs():
    rng = np.random.default_rng(3)
    reported = 0
    everything = ABLATION.model_copy(update={"screen_p": 1.0})
    for trial in range(40):
        ties = [association(cue_id=str(i), bias_p=p, gap_p_maxt=1.0) for i, p in enumerate(rng.random(20))]
        rows = []
        for i in range(20):
            rows += [
                {**row, "logit_effect": value, "effect": value / 8}
                for row, value in zip(effects(0, cue=str(i)), np.repeat(rng.normal(size=30), 2), strict=True)
            ]
        found = rank(frame_of("associations", ties), frame_of("effects", rows), CONFIG, everything, trial)
        reported += (found["verdict"] == "spurious").any()
    assert reported <= 5


def test_a_look_that_spends_a_tenth_of_the_error_multiplies_the_p_value_by_ten():
    rows = effects(0.015) + pasted(0.0)
    once = only([association()], rows)
    tenth = only([association()], [row | {"look": 0, "level_share": 0.1} for row in rows])
    assert 1e-4 < once["removal_p"] < 0.1
    assert tenth["removal_p"] == pytest.approx(10 * once["removal_p"])
    assert tenth["effect_low"] < once["effect_low"]


def test_forwards_that_early_stops_saved_are_counted():
    found = only([association()], effects(0.3, n=10) + pasted(0.3, n=10), AblateConfig(images_per_cue=40))
    assert found["n_forwards"] == 2 * (20 + 10)
    assert found["n_forwards_saved"] == 2 * (40 + 40) - found["n_forwards"]
    more = AblateConfig(images_per_cue=10)
    assert only([association()], effects(0.3, n=10) + pasted(0.3, n=10), more)["n_forwards_saved"] == 0


# --- speaks for another class ----------------------------------------------------------------------------------------


def against(net: float, gain: float, **changes) -> dict:
    """Returns the row of camels for a cue that is rarer there, beside cows for which it speaks with `gain`."""
    rarer = {"label": "camel", "prevalence": 0.1, "prevalence_rest": 0.9, "bias_z": -12.0, "gap": -0.3}
    rows = effects(gain) + [row | {"label": "camel"} for row in effects(net)]
    return ranked([association(), association(**rarer) | changes], rows).filter(label="camel").row(0, named=True)


def test_a_cue_that_takes_no_more_than_it_gives_to_another_class_speaks_for_that_one():
    found = against(-0.3, 0.4)
    assert found["verdict"] == "speaks for another class"
    assert found["explained_by"] == "grass, for cow"
    assert "'cow'" in found["reason"]


@pytest.mark.parametrize(
    ("net", "gain"), [(-0.6, 0.3), (-0.3, 0.0), (-0.3, -0.4)], ids=["takes more", "gives nothing", "takes from both"]
)
def test_a_cue_against_a_class_that_another_ones_gain_does_not_account_for_is_reported(net, gain):
    assert against(net, gain)["verdict"] == "spurious"


# --- explained by another cue ----------------------------------------------------------------------------------------


def pair_of_cues(*, covered: int, net_alone: float, back: int = 0, net_other: float = 0.5) -> list[dict]:
    """Returns removals of grass and of a fence; in the first `covered` of 30 photos the fence goes with the grass."""
    grass = effects(0.3, cue="grass")
    for row in grass:
        if int(row["sample_id"][1:]) < covered:
            row["covered_by"] = ["fence"]
        else:
            row["effect"] += net_alone - 0.3
            row["logit_effect"] = 8 * row["effect"]
    fence = effects(net_other, cue="fence")
    for row in fence:
        if int(row["sample_id"][1:]) < back:
            row["covered_by"] = ["grass"]
    return grass + fence


BOTH = [association(), association(cue_id="fence", phrase="a fence")]


def test_a_cue_with_nothing_left_without_another_is_explained_by_it():
    found = ranked(BOTH, pair_of_cues(covered=18, net_alone=0.0))
    row = found.filter(cue_id="grass").row(0, named=True)
    assert (row["verdict"], row["explained_by"]) == ("explained by another cue", "a fence")
    assert "'a fence'" in row["reason"]
    assert verdict_of(found, "fence") == "spurious"
    assert found.filter(cue_id="fence")["explained_by"].to_list() == [None]
    assert found["rank"].to_list() == [1, 2]


def test_a_cue_that_is_never_seen_alone_is_explained():
    assert verdict_of(ranked(BOTH, pair_of_cues(covered=30, net_alone=0.0)), "grass") == "explained by another cue"


def test_a_cue_that_stands_alone_is_not_explained():
    assert verdict_of(ranked(BOTH, pair_of_cues(covered=18, net_alone=0.3)), "grass") == "spurious"


def test_a_cue_that_is_seldom_covered_is_not_explained():
    assert verdict_of(ranked(BOTH, pair_of_cues(covered=14, net_alone=0.05)), "grass") == "spurious"


@pytest.mark.parametrize(("net_other", "left"), [(0.5, "fence"), (0.2, "grass")])
def test_of_two_cues_that_cover_each_other_the_stronger_stays(net_other, left):
    found = ranked(BOTH, pair_of_cues(covered=30, back=30, net_alone=0.0, net_other=net_other))
    assert found.filter(verdict="spurious")["cue_id"].to_list() == [left]
    assert found.filter(verdict="explained by another cue").height == 1


def test_a_stronger_cue_is_explained_by_a_weaker_one_that_does_not_need_it():
    found = ranked(BOTH, pair_of_cues(covered=30, net_alone=0.0, net_other=0.2))
    assert verdict_of(found, "grass") == "explained by another cue"


def test_a_part_of_the_object_explains_what_lies_on_it_and_is_never_explained():
    core = [
        association(kind="object"),
        association(cue_id="fence", phrase="a fence", kind="object", core_reason="a part"),
    ]
    found = ranked(core, pair_of_cues(covered=30, back=30, net_alone=0.0))
    assert (verdict_of(found, "grass"), verdict_of(found, "fence")) == ("explained by another cue", "core")


@pytest.mark.parametrize(
    "other",
    [
        association(cue_id="fence", phrase="a fence", label="cat"),
        association(cue_id="fence", phrase="a fence", **UNTIED),
    ],
    ids=["of another class", "not spurious itself"],
)
def test_what_cannot_be_a_reason_explains_nothing(other):
    rows = pair_of_cues(covered=30, net_alone=0.0)
    rows = [row | {"label": other["label"]} if row["cue_id"] == "fence" else row for row in rows]
    assert verdict_of(ranked([association(), other], rows), "grass") == "spurious"


def test_a_cue_that_speaks_the_other_way_explains_nothing():
    against = association(cue_id="fence", phrase="a fence", bias_z=-9.0)
    rows = pair_of_cues(covered=30, net_alone=0.0, net_other=-0.5)
    assert verdict_of(ranked([association(), against], rows), "grass") == "spurious"


# --- the table as a whole ---------------------------------------------------------------------------------------------


def test_ranks_start_at_one_in_every_class():
    found = ranked([association(), association(label="cat")], effects(0.3))
    assert found["rank"].to_list() == [1, 1]
    assert found["score"].null_count() == 0


def test_the_same_seed_gives_the_same_table():
    one, two = (ranked([association()], effects(0.1) + pasted(0.1)) for _ in range(2))
    assert one.equals(two)
