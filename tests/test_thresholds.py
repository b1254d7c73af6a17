import numpy as np
import pytest

from discovery.thresholds import Prior, Threshold, learn_threshold, thresholds

WIDE = Prior(0.9, -100, 100)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def mixture(n_absent: int, n_present: int, present: float, spread: float = 1.0) -> np.ndarray:
    source = np.random.default_rng(5)
    return np.concatenate([source.normal(0, 1, n_absent), source.normal(present, spread, n_present)])


def test_equal_components_meet_halfway():
    found = learn_threshold(mixture(3000, 3000, 6.0), WIDE, rng())
    assert found.origin == "learned"
    assert found.value == pytest.approx(3.0, abs=0.15)


def test_a_rare_cue_has_to_score_higher():
    # Equal spreads s and means 0 and m meet at m/2 + s²/m · log(w0/w1).
    found = learn_threshold(mixture(9000, 900, 6.0), WIDE, rng())
    assert found.value == pytest.approx(3 + np.log(10) / 6, abs=0.15)


def test_one_component_says_nothing():
    assert learn_threshold(mixture(5000, 0, 0.0), WIDE, rng()) == Threshold(0.9, "prior")


def test_components_that_do_not_trade_places_between_their_means_say_nothing():
    # A wide component around a narrow one: their means are the same.
    source = np.random.default_rng(5)
    scores = np.concatenate([source.normal(0, 0.2, 3000), source.normal(0.05, 3, 3000)])
    assert learn_threshold(scores, WIDE, rng()).origin == "prior"


@pytest.mark.parametrize(("low", "high", "value"), [(4, 9, 4), (-5, 1.5, 1.5)])
def test_a_learned_threshold_stays_within_the_range_of_its_detector(low, high, value):
    assert learn_threshold(mixture(3000, 3000, 6.0), Prior(5, low, high), rng()) == Threshold(value, "learned")


@pytest.mark.parametrize("scores", [np.zeros(0), np.ones(1000), mixture(90, 90, 9.0)])
def test_too_few_or_equal_scores_say_nothing(scores):
    assert learn_threshold(scores, WIDE, rng()).origin == "prior"


def test_the_seed_decides_even_on_a_sample():
    scores = mixture(30_000, 20_000, 4.0)
    one, two = learn_threshold(scores, WIDE, rng()), learn_threshold(scores, WIDE, rng())
    assert one == two
    assert one.value == pytest.approx(2 + np.log(1.5) / 4, abs=0.15)


def test_what_was_set_is_taken_as_it_is_and_the_others_are_learned():
    scores = {"conse": mixture(3000, 3000, 6.0), "text": np.full(5, 0.8), "owl": np.full(5, 0.2)}
    found = thresholds(scores, {"text": 0.95, "absent": 0.1}, rng())
    assert found == {
        "conse": Threshold(pytest.approx(3.0, abs=0.15), "learned"),
        "owl": Threshold(0.5, "prior"),
        "text": Threshold(0.95, "set"),
    }


def test_a_tail_cut_off_by_a_floor_gives_a_threshold_between_noise_and_signal():
    source = np.random.default_rng(6)
    scores = np.concatenate([source.normal(1, 1, 40_000), source.normal(6, 0.8, 3000)])
    found = thresholds({"conse": scores[scores >= 1.5]}, {}, rng())["conse"]
    assert found.origin == "learned"
    assert 2.8 < found.value < 4.5
