"""More and more of a cue removed: what is removed, what a model makes of it, and what is said of it."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import test_ablate
from scipy.special import expit
from test_rank import association, only

from discovery import ablate
from discovery.config import AblateConfig, RankConfig
from discovery.dose import UNDOSED, Dose, dose_views, grow
from discovery.run import frame_of
from discovery.trials import Trial, run_trials
from discovery.use import measure_use

SIDE = 48
CONFIG = RankConfig(bootstrap=300)
SHARES = (0.25, 0.5, 1.0)
RED = (220, 40, 40)


def cue_mask() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, :30] = True
    return mask


def photo(rng: np.random.Generator) -> np.ndarray:
    """Red on the left, where the cue is; grey on the right, with a bright object in it."""
    view = np.full((SIDE, SIDE, 3), 100, np.uint8)
    view[cue_mask()] = RED
    view[8:24, 34:44] = 240
    return np.clip(view + rng.normal(0, 4, view.shape), 0, 255).astype(np.uint8)


class Reader:
    """Log-odds of the class: by how much of the photo is red, or by whether the object is there."""

    classes = ("cow", "goat")

    def __init__(self, what: str) -> None:
        self.what = what

    def predict(self, views) -> np.ndarray:
        red = np.array([(view[..., 0].astype(int) - view[..., 2] > 100).mean() for view in views])
        bright = np.array([(view.min(axis=2) > 200).mean() for view in views])
        p = expit(-1 + 4 * red) if self.what == "cue" else expit(-1 + 20 * bright)
        return np.stack([p, 1 - p], axis=1)


def trials(model: Reader, n: int = 12) -> list[Trial]:
    made = []
    for i in range(n):
        rng = np.random.default_rng(i)
        view = photo(rng)
        known = {"label": "cow", "cue_id": "grass", "sample_id": f"s{i}", "way": "removal", "predicted": "cow"}
        known |= {"prob_before": float(model.predict([view])[0, 0]), "look": 0, "level_share": 1.0, "covered_by": []}
        made.append(Trial(known, [], 0, (), dose_views(view, cue_mask(), i, AblateConfig(), rng)))
    return made


def rows_of(what: str, n: int = 12) -> list[dict]:
    model = Reader(what)
    return list(run_trials(trials(model, n), model, 8))


def test_larger_parts_hold_the_smaller_ones_and_have_the_share_they_are_named_by():
    mask = cue_mask()
    parts = grow(mask, SHARES, np.random.default_rng(3))
    assert [part.sum() / mask.sum() for part in parts] == pytest.approx(SHARES, abs=1e-3)
    assert not any((small & ~large).any() for small, large in pairwise(parts))
    assert (parts[-1] == mask).all()


@pytest.mark.parametrize("turn", range(3))
def test_nothing_of_the_cue_is_left_in_a_part_that_is_removed_and_nothing_outside_changes(turn):
    rng = np.random.default_rng(0)
    view, red = photo(rng), []
    for dose in dose_views(view, cue_mask(), turn, AblateConfig(), rng):
        assert (dose.view[~cue_mask()] == view[~cue_mask()]).all()
        red.append((dose.view[cue_mask()][:, 0].astype(int) - dose.view[cue_mask()][:, 2] > 100).mean())
    assert red == pytest.approx([0.75, 0.5, 0.0], abs=0.02), "a fill of the part alone would be red as well"


def test_what_fills_its_photo_is_not_dosed_since_nothing_is_left_to_fill_it_from():
    view = photo(np.random.default_rng(0))
    for mask in (np.ones((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)):
        assert dose_views(view, mask, 0, AblateConfig(), np.random.default_rng(0)) == ()
    assert dose_views(view, cue_mask(), 0, AblateConfig(doses=()), np.random.default_rng(0)) == ()


def test_a_model_that_reads_the_cue_by_its_area_answers_to_every_dose_in_proportion():
    found = measure_use(frame_of("effects", rows_of("cue")), CONFIG, np.random.default_rng(0)).response
    share = cue_mask().mean()
    assert found.slope.value == pytest.approx(4 * share, rel=0.03)
    assert found.slope.low > 0
    assert (found.n, found.p) == (12, pytest.approx(2 / 2**12))


def test_a_model_that_reads_the_object_answers_to_none():
    found = measure_use(frame_of("effects", rows_of("object")), CONFIG, np.random.default_rng(0)).response
    assert found.slope.value == pytest.approx(0.0, abs=1e-6)
    assert found.p > 0.05


def test_a_line_goes_through_the_zero_dose_of_its_photo():
    rows = [
        {"sample_id": f"s{i}", "way": "dose", "dose": dose, "logit_effect": loss, "n_forwards": 1}
        for i in range(8)
        for dose, loss in ((0.5, 2.0), (1.0, 2.0))
    ]
    found = measure_use(frame_of("effects", rows), CONFIG, np.random.default_rng(0)).response
    assert found.slope.value == pytest.approx((0.5 * 2 + 1 * 2) / (0.25 + 1))


def test_a_dose_is_no_removal_and_each_is_one_forward_pass():
    frame = frame_of("effects", rows_of("cue"))
    assert frame["intervention"].unique().sort().to_list() == ["dose-0.25", "dose-0.5", "dose-1"]
    found = measure_use(frame, CONFIG, np.random.default_rng(0))
    assert (found.removal.n, found.paste.n, found.n_forwards) == (0, 0, 36)
    assert frame["effect_control"].null_count() == len(frame)
    few = measure_use(frame.filter(pl.col("sample_id").is_in(["s0", "s1"])), CONFIG, np.random.default_rng(0))
    assert few.response.p == 1.0
    assert measure_use(frame.clear(), CONFIG, np.random.default_rng(0)).response == UNDOSED


def test_doses_of_a_second_class_cost_nothing_more():
    view = photo(np.random.default_rng(0))
    known = {"label": "cow", "predicted": "cow", "way": "removal", "prob_before": 0.7}
    other = (known | {"label": "goat", "prob_before": 0.3}, 1)
    trial = Trial(known, [], 0, (other,), (Dose(1.0, view),))
    rows = list(run_trials([trial], Reader("cue"), 8))
    assert [(row["label"], row["n_forwards"]) for row in rows] == [("cow", 1), ("goat", 0)]


def swapped(net: float) -> list[dict]:
    known = {"label": "cow", "cue_id": "grass", "intervention": "swap", "way": "removal", "n_forwards": 4}
    known |= {"prob_before": 0.9, "effect_control": 0.0, "logit_effect_control": 0.0, "flipped": False}
    noise = 0.02 * np.random.default_rng(1).normal(size=12)
    return [
        known | {"sample_id": f"s{i}", "effect": net + e, "logit_effect": 8 * (net + e), "covered_by": []}
        for i, e in enumerate(noise)
    ]


@pytest.mark.parametrize(
    ("what", "net", "said"),
    [
        ("cue", 0.3, "agrees with its removal"),
        ("cue", -0.3, "contradicts its removal"),
        ("object", 0.3, "may be chance"),
        ("cue", None, "no clear removal against a control confirms it"),
    ],
)
def test_the_reason_says_how_a_dose_goes_with_the_swap_and_the_verdict_is_the_swaps(what, net, said):
    plain = swapped(net) if net else []
    row = only([association()], plain + rows_of(what))
    assert said in row["reason"]
    assert row["verdict"] == only([association()], plain)["verdict"], "a slope has no control and decides nothing"
    assert row["n_dosed"] == 12


def test_a_swapped_cue_is_also_removed_by_doses(tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "_siblings", lambda _: {})
    run = test_ablate._run(tmp_path, corners=test_ablate.CORNERS[:3])
    for part in range(ablate.STAGE.rounds(run.config)):
        run.write("effects", ablate.STAGE.work(run, part), shard=part, fingerprint="made")
    effects = run.read("effects")
    swaps, doses = effects.filter(intervention="swap"), effects.filter(way="dose")
    assert len(swaps)
    assert len(doses) == 3 * swaps["sample_id"].n_unique()
    assert doses["n_forwards"].to_list() == [1] * len(doses)
    assert set(doses["sample_id"]) == set(swaps["sample_id"])
