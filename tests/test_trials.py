import numpy as np
import pytest

from discovery.config import AblateConfig
from discovery.interventions import Pair
from discovery.trials import UNSEEN, Scene, Trial, removal_pairs, run_trials, swap_pairs


class Mean:
    """A model whose first class is as likely as the view is bright."""

    classes = ("bright", "dark")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, views) -> np.ndarray:
        self.batches.append(len(views))
        p = np.array([view.mean() / 255 for view in views])
        return np.stack([p, 1 - p], axis=1)


def flat(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def row(way: str = "removal", **changes) -> dict:
    return {"sample_id": "a", "label": "bright", "predicted": "bright", "prob_before": 0.8, "way": way, **changes}


def only(trial: Trial) -> dict:
    return next(iter(run_trials([trial], Mean(), 32)))


def test_a_removal_costs_what_was_there_before_and_batches_are_full():
    model = Mean()
    trials = [Trial(row(sample_id=str(i)), [Pair("blur", flat(51), flat(204))], 0) for i in range(10)]
    rows = list(run_trials(trials, model, 4))
    assert [found["sample_id"] for found in rows] == [str(i) for i in range(10)]
    assert rows[0]["effect"] == pytest.approx(0.8 - 0.2)
    assert rows[0]["effect_control"] == pytest.approx(0.0)
    assert rows[0]["logit_effect"] > 0
    assert rows[0]["flipped"]
    assert rows[0]["n_forwards"] == 2
    assert model.batches == [4] * 5


def test_a_paste_in_wins_what_was_not_there_before():
    trial = Trial(row("paste", prob_before=0.2, predicted="dark"), [Pair("paste", flat(204), flat(51))], 0)
    found = only(trial)
    assert found["effect"] == pytest.approx(0.8 - 0.2)
    assert found["effect_control"] == pytest.approx(0.0)
    assert found["logit_effect"] > 0
    assert found["flipped"]


def test_a_paste_in_whose_control_wins_the_class_too_flips_nothing():
    trial = Trial(row("paste", prob_before=0.2, predicted="dark"), [Pair("paste", flat(204), flat(204))], 0)
    assert not only(trial)["flipped"]


def test_a_wrong_prediction_cannot_be_lost():
    assert not only(Trial(row(predicted="dark"), [Pair("blur", flat(0), flat(255))], 0))["flipped"]


def test_pairs_of_one_name_are_averaged_into_one_row():
    pairs = [Pair("swap", flat(0), flat(255)), Pair("swap", flat(102), flat(255)), Pair("mean", flat(51), flat(51))]
    rows = list(run_trials([Trial(row(), pairs, 0)], Mean(), 32))
    assert [found["intervention"] for found in rows] == ["swap", "mean"]
    assert rows[0]["prob_after"] == pytest.approx(0.2)
    assert [found["n_forwards"] for found in rows] == [4, 2]


def test_one_forward_pass_answers_for_several_classes_and_is_counted_once():
    model = Mean()
    other = (row("paste", label="dark", prob_before=0.8), 1)
    trial = Trial(row("paste", prob_before=0.2), [Pair("paste", flat(204), flat(51))], 0, (other,))
    bright, dark = run_trials([trial], model, 32)
    assert (bright["label"], dark["label"]) == ("bright", "dark")
    assert bright["effect"] == pytest.approx(0.6)
    assert dark["effect"] == pytest.approx(-0.6)
    assert (bright["n_forwards"], dark["n_forwards"]) == (2, 0)
    assert model.batches == [2]


def test_what_the_view_does_not_hold_has_no_effect_and_costs_nothing():
    model = Mean()
    found = next(iter(run_trials([Trial(row(), None, 0)], model, 4)))
    assert (found["intervention"], found["effect"], found["logit_effect"], found["n_forwards"]) == (UNSEEN, 0, 0, 0)
    assert model.batches == []


def test_fills_take_turns_and_a_frame_is_also_cropped():
    view, mask = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), np.zeros((64, 64), bool)
    mask[4:20, 4:20] = True
    frame = np.ones((64, 64), bool)
    frame[5:-5, 5:-5] = False

    def names(kind: str, mask: np.ndarray) -> list[str]:
        nothing = np.zeros_like(mask)
        found = [
            removal_pairs(view, mask, Scene(kind, turn, nothing), AblateConfig(), np.random.default_rng(0))
            for turn in range(4)
        ]
        return [pair.name for pairs in found for pair in pairs]

    assert names("object", mask) == ["blur", "mean", "inpaint", "blur"]
    assert names("border", frame) == ["blur", "mean", "inpaint", "crop"]


class Inside:
    """A model that looks at what lies just inside a frame, and not at the frame."""

    classes = ("bright", "dark")

    def predict(self, views) -> np.ndarray:
        p = np.array([view[8:56, 8:56].mean() / 255 for view in views])
        return np.stack([p, 1 - p], axis=1)


@pytest.mark.parametrize("turn", range(3))
def test_a_frame_that_the_model_does_not_use_does_nothing_whatever_lies_inside(turn):
    view = np.full((64, 64, 3), 40, np.uint8)
    view[6:-6, 6:-6] = np.random.default_rng(0).integers(60, 255, (52, 52, 3), dtype=np.uint8)
    mask = np.ones((64, 64), bool)
    mask[6:-6, 6:-6] = False
    scene = Scene("border", turn, mask)
    pairs = removal_pairs(view, mask, scene, AblateConfig(), np.random.default_rng(0))
    (found,) = run_trials([Trial(row(), pairs, 0)], Inside(), 32)
    assert found["effect"] - found["effect_control"] == pytest.approx(0.0, abs=1e-6)


def test_a_cue_without_room_for_a_control_is_not_removed_but_swapped():
    mask = np.ones((64, 64), bool)
    mask[:8] = False
    view = np.zeros((64, 64, 3), np.uint8)
    scene = Scene("background", 0, np.zeros_like(mask))
    assert removal_pairs(view, mask, scene, AblateConfig(), np.random.default_rng(0)) == []
    donors = [(np.full_like(view, 50), np.full_like(view, 90))]
    assert [pair.name for pair in swap_pairs(view, mask, scene, lambda: donors)] == ["swap"]
    around = np.zeros_like(mask)
    around[20:40, 20:40] = True
    (pair,) = swap_pairs(view, mask, Scene("background", 0, np.zeros_like(mask), around), lambda: donors)
    assert pair.name == "background"
    assert (pair.removed[around] == 0).all()
