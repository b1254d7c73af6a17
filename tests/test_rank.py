import numpy as np
import polars as pl
import pytest

from discovery.config import RankConfig
from discovery.rank import rank
from discovery.run import frame_of

CONFIG = RankConfig(bootstrap=200, sign_flips=999)


def association(**changes) -> dict:
    return {
        **{"label": "cow", "cue_id": "grass", "phrase": "grass", "kind": "background", "source": "attribute"},
        **{"n_with": 90, "n_without": 10, "prevalence": 0.9, "prevalence_rest": 0.1, "bias_z": 12.0, "cramers_v": 0.8},
        **{"bias_p": 1e-30, "n_audit_with": 40, "n_audit_without": 10, "gap": 0.3, "gap_low": 0.1, "gap_high": 0.5},
        **{"gap_p": 0.01, "detectable_gap": 0.2, "hallucination_gap": 0.1},
        **changes,
    }


def effects(net: float, n: int = 30, *, cue: str = "grass", spread: float = 0.05, **changes) -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        for name in ("blur", "mean"):
            value = net + spread * rng.normal()
            rows.append(
                {
                    **{"label": "cow", "cue_id": cue, "sample_id": f"s{i}", "intervention": name, "area_frac": 0.2},
                    **{"prob_before": 0.9, "prob_after": 0.9 - value, "prob_control": 0.9, "effect": value},
                    **{"effect_control": 0.0, "logit_effect": 8 * value, "logit_effect_control": 0.0},
                    **{"flipped": value > 0.4, "object_overlap": None},
                    **changes,
                }
            )
    return rows


def ranked(associations: list[dict], rows: list[dict]) -> pl.DataFrame:
    return rank(frame_of("associations", associations), frame_of("effects", rows), CONFIG, 0.05, 0)


def only(associations: list[dict], rows: list[dict]) -> dict:
    return ranked(associations, rows).row(0, named=True)


def test_tied_and_used_is_spurious():
    found = only([association()], effects(0.3))
    assert found["verdict"] == "spurious"
    assert found["effect_low"] < found["effect"] < found["effect_high"]
    assert found["effect"] == pytest.approx(0.3, abs=0.03)
    assert "speaks for the class" in found["reason"]


def test_used_but_not_tied_is_no_evidence():
    found = only([association(bias_p=0.02, gap_p=0.9), association(cue_id="b", bias_p=1.0, gap_p=1.0)], effects(0.3))
    assert found["verdict"] == "no evidence"


def test_tied_but_without_effect_is_correlated_not_used():
    found = only([association()], effects(0.0))
    assert found["verdict"] == "correlated, not used"


def test_an_effect_too_small_to_matter_does_not_count():
    found = only([association()], effects(0.01, spread=0.001))
    assert found["verdict"] == "correlated, not used"
    assert "smallest that counts" in found["reason"]


def test_what_moves_as_much_as_its_control_is_not_used():
    found = only([association()], effects(0.3, effect_control=0.3, logit_effect_control=2.4, prob_control=0.6))
    assert found["verdict"] == "correlated, not used"


def test_interventions_that_point_apart_are_said():
    rows = effects(0.3)
    for row in rows:
        if row["intervention"] == "mean":
            row["logit_effect"] = -0.4
            row["effect"] = -0.05
    found = only([association()], rows)
    assert found["verdict"] == "correlated, not used"
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
    row = association(n_with=0, n_audit_with=0, bias_p=None, bias_z=None, cramers_v=None, gap_p=None, gap=None)
    assert only([row], [])["verdict"] == "not enough data"


def test_a_cue_that_speaks_against_the_class_keeps_its_sign_and_comes_last():
    against = association(cue_id="sea", phrase="sea", bias_z=-9.0, gap=-0.3, prevalence=0.2, prevalence_rest=0.8)
    found = ranked([against, association()], effects(0.2) + effects(-0.4, cue="sea"))
    assert found["phrase"].to_list() == ["grass", "sea"]
    assert found["verdict"].to_list() == ["spurious", "spurious"]
    assert found["effect"][1] < 0
    assert "against the class" in found["reason"][1]


def test_an_effect_against_its_tie_is_no_finding():
    found = only([association(bias_z=-9.0)], effects(0.3))
    assert found["verdict"] == "no evidence"


def test_having_tried_many_raises_the_bar():
    weak = association(bias_p=0.02, gap_p=1.0)
    others = [association(cue_id=str(i), bias_p=1.0, gap_p=1.0) for i in range(50)]
    alone = only([weak], effects(0.3))
    among = next(r for r in ranked([weak, *others], effects(0.3)).iter_rows(named=True) if r["cue_id"] == "grass")
    assert alone["verdict"] == "spurious"
    assert among["q_value"] > 0.05
    assert among["verdict"] != "spurious"


def test_pure_noise_is_reported_in_few_runs():
    rng = np.random.default_rng(3)
    reported = 0
    for trial in range(40):
        ties = [association(cue_id=str(i), bias_p=p, gap_p=1.0) for i, p in enumerate(rng.random(20))]
        rows = []
        for i in range(20):
            rows += [
                {**row, "logit_effect": value, "effect": value / 8}
                for row, value in zip(effects(0, cue=str(i)), np.repeat(rng.normal(size=30), 2), strict=True)
            ]
        found = rank(frame_of("associations", ties), frame_of("effects", rows), CONFIG, 1.0, trial)
        reported += (found["verdict"] == "spurious").any()
    assert reported <= 5


def test_ranks_start_at_one_in_every_class():
    found = ranked([association(), association(label="cat")], effects(0.3))
    assert found["rank"].to_list() == [1, 1]
    assert found["score"].null_count() == 0


def test_the_same_seed_gives_the_same_table():
    one, two = (ranked([association()], effects(0.1)) for _ in range(2))
    assert one.equals(two)
