"""What the rows of `effects` of one class and cue say: net effect, interval and p-value, by either way."""

import math

import numpy as np
import pytest

from discovery.config import RankConfig
from discovery.run import frame_of
from discovery.stats import Estimate
from discovery.use import UNTRIED, Use, Way, measure_use, net_of

CONFIG = RankConfig(bootstrap=300)


def shown(nets: list[float], *, way: str = "removal", **changes) -> list[dict]:
    """Returns one row per photo; the net effect in log-odds is ten times that in probability."""
    return [
        {
            **{"label": "cow", "cue_id": "grass", "sample_id": f"{way}{i}", "intervention": "blur", "way": way},
            **{"effect": net + 0.1, "effect_control": 0.1, "logit_effect": 10 * net + 1, "logit_effect_control": 1.0},
            **{"flipped": i == 0, "n_forwards": 2, **changes},
        }
        for i, net in enumerate(nets)
    ]


def use(rows: list[dict], share: float = 1.0, seed: int = 0) -> Use:
    frame = frame_of("effects", [{"look": 0, "level_share": share} | row for row in rows])
    return measure_use(frame, CONFIG, np.random.default_rng(seed))


def around(mean: float, n: int = 20, spread: float = 0.02) -> list[float]:
    return (mean + spread * np.random.default_rng(1).normal(size=n)).tolist()


def way(p: float, effect: float) -> Way:
    return Way(Estimate(effect, effect, effect), Estimate(effect, effect, effect), p, 10, 0, True)


def test_the_effect_is_what_the_cue_does_beyond_its_control():
    found = use(shown([0.3] * 10)).removal
    assert found.effect.value == pytest.approx(0.3)
    assert found.logit.value == pytest.approx(3.0)
    assert (found.n, found.n_flipped) == (10, 1)


def test_interventions_on_one_photo_are_averaged_before_photos_are_counted():
    rows = shown([0.2] * 10) + shown([0.4] * 10, intervention="mean")
    assert net_of(frame_of("effects", rows))["net"].to_list() == pytest.approx([0.3] * 10)
    assert use(rows).removal.n == 10


def test_a_photo_counts_as_flipped_when_one_intervention_flipped_it():
    rows = shown([0.2] * 10) + shown([0.2] * 10, intervention="mean", flipped=False)
    assert use(rows).removal.n_flipped == 1


def test_the_two_ways_are_kept_apart():
    found = use(shown(around(0.3)) + shown(around(-0.1, 12), way="paste"))
    assert found.removal.effect.value > 0 > found.paste.effect.value
    assert (found.removal.n, found.paste.n) == (20, 12)
    assert found.n_forwards == 64


def test_a_way_that_was_not_tried_says_nothing():
    found = use(shown(around(0.3)))
    assert found.paste is UNTRIED
    assert found.p == found.removal.p
    assert math.isnan(Use().p)


def test_the_way_with_the_smaller_p_is_reported_and_p_pays_for_having_two():
    both = Use(removal=way(0.04, 0.1), paste=way(0.01, 0.2))
    assert both.chosen.effect.value == 0.2
    assert both.p == pytest.approx(0.02)
    assert Use(removal=way(0.01, 0.1), paste=way(0.04, 0.2)).chosen.effect.value == 0.1
    assert Use(paste=way(0.5, 0.2)).chosen.effect.value == 0.2
    assert Use(removal=way(0.5, 0.1)).chosen.effect.value == 0.1


def test_what_a_look_spends_of_the_error_divides_p_and_widens_the_interval():
    rows = shown(around(0.004, 12))
    one, third = use(rows).removal, use(rows, share=1 / 3).removal
    assert 0.01 < one.p < 0.3
    assert third.p == pytest.approx(3 * one.p)
    assert third.effect.low < one.effect.low < one.effect.high < third.effect.high
    assert use(shown(around(0.0, 12)), share=0.2).removal.p == 1.0


def test_the_last_look_decides_what_was_spent():
    rows = shown(around(0.004, 12))
    later = [row | {"look": i // 6, "level_share": (0.1, 0.9)[i // 6]} for i, row in enumerate(rows)]
    assert use(later[::-1]).removal.p == pytest.approx(use(rows, share=0.9).removal.p)


def test_photos_with_the_same_patch_are_no_surer_than_the_patch():
    rows = shown([0.3] * 24, way="paste")
    patches = [row | {"source_id": f"patch{i % 4}"} for i, row in enumerate(rows)]
    assert use(rows).paste.p == pytest.approx(2.0**-23)
    assert use(patches).paste.p == pytest.approx(2.0**-3)
    assert use(patches).paste.n == 24


def test_photos_that_all_agree_are_as_sure_as_their_number_allows():
    assert use(shown([0.5] * 30)).removal.p == pytest.approx(2.0**-29)


def test_a_way_with_too_few_photos_shows_nothing():
    assert use(shown([0.4] * 7)).p == 1.0
    assert use(shown([0.4] * 8)).p < 0.05
    assert use(shown([0.4] * 7) + shown(around(0.01), way="paste")).chosen.n == 20


def test_photos_whose_view_holds_nothing_of_the_cue_count_as_zero():
    unseen = {"intervention": "unseen", "effect": 0.0, "effect_control": 0.0, "n_forwards": 0}
    unseen |= {"logit_effect": 0.0, "logit_effect_control": 0.0, "flipped": False}
    rows = shown([0.4] * 20)
    found = use(rows[:10] + [row | unseen for row in rows[10:]])
    assert found.removal.effect.value == pytest.approx(0.2)
    assert found.removal.n == 20
    assert found.removal.agree
    assert found.n_forwards == 20


@pytest.mark.parametrize(
    ("second", "n", "agree"),
    [(0.2, 10, True), (-0.1, 10, False), (-0.1, 5, True), (0.0, 10, True)],
    ids=["same side", "other side", "too few to have a say", "nothing"],
)
def test_interventions_agree_unless_one_lies_clearly_on_the_other_side(second, n, agree):
    rows = shown(around(0.3)) + shown(around(second, n, 0.001 if second else 0.05), intervention="mean")
    assert use(rows).removal.agree == agree


def test_the_overlap_with_the_object_is_a_mean_over_removals():
    rows = shown([0.3] * 10, object_overlap=0.5) + shown([0.3] * 10, way="paste", object_overlap=None)
    assert use(rows).object_overlap == pytest.approx(0.5)
    assert use(rows).object_source is None
    some = shown([0.3] * 10, object_overlap=0.5, object_source="owlv2") + rows[:3]
    assert use(some).object_source == "owlv2"
    assert use([row | {"object_source": "given"} for row in rows[:3]] + some).object_source == "given+owlv2"
    assert math.isnan(use(shown([0.3] * 10)).object_overlap)


def test_the_seed_decides_and_nothing_else():
    rows = shown(around(0.02))
    assert use(rows).removal == use(rows).removal
    assert use(rows).removal != use(rows, seed=1).removal
