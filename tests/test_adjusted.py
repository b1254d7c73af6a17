import numpy as np
import pytest

from discovery.adjusted import FOLDS, Setting, adjusted_gap, adjusted_gaps
from discovery.config import AssociateConfig

CONFIG = AssociateConfig()


def setting(right: np.ndarray, split: np.ndarray | None = None) -> Setting:
    n = len(right)
    return Setting(right, np.full(n, "all") if split is None else split, np.full(n, 100.0))


def gaps(shown: np.ndarray, photos: Setting, config: AssociateConfig = CONFIG, seed: int = 0) -> list:
    return adjusted_gaps(np.atleast_2d(shown), photos, config, np.random.default_rng(seed))


def confounded(n: int, effect: float, seed: int) -> tuple[np.ndarray, Setting]:
    """Another cue makes photos hard and brings the first cue along; the first adds `effect` of its own."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.4
    shown = rng.random(n) < np.where(hard, 0.75, 0.25)
    right = rng.random(n) < 0.8 - 0.4 * hard + effect * shown
    return np.stack([shown, hard]), setting(right)


@pytest.mark.parametrize("effect", [0.0, -0.2])
def test_a_gap_is_cleared_of_the_cue_that_comes_along(effect):
    shown, photos = confounded(4000, effect, 0)
    raw = photos.right[shown[0]].mean() - photos.right[~shown[0]].mean()
    found = gaps(shown, photos)[0]
    assert abs(raw - effect) > 0.12
    assert found.value == pytest.approx(effect, abs=0.05)
    assert found.low < effect < found.high
    assert (found.p < 0.01) == (effect != 0)


def test_without_the_other_cue_to_adjust_for_the_gap_stays_confounded():
    shown, photos = confounded(4000, 0.0, 0)
    assert gaps(shown, photos, AssociateConfig(adjust_for=0))[0].value == pytest.approx(0, abs=0.05)  # by their number
    assert gaps(shown[:1], photos)[0].value < -0.12


def test_a_cue_that_is_the_same_thing_is_not_adjusted_for():
    rng = np.random.default_rng(1)
    shown = rng.random(600) < 0.4
    twin = shown ^ (rng.random(600) < 0.02)
    photos = setting(rng.random(600) < np.where(shown, 0.5, 0.8))
    assert gaps(np.stack([shown, twin]), photos)[0].value == pytest.approx(-0.3, abs=0.1)
    narrow = gaps(np.stack([shown, twin]), photos)[0]
    wide = gaps(np.stack([shown, twin]), photos, AssociateConfig(same_phi=1.0))[0]
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_a_split_that_holds_the_cue_nowhere_is_no_comparison():
    # Always right in train, where half show the cue; seldom right in test, where none does.
    rng = np.random.default_rng(2)
    train = np.arange(500) < 200
    shown = train & (rng.random(500) < 0.5)
    right = train | (rng.random(500) < 0.4)
    photos = setting(right, np.where(train, "train", "test"))
    assert right[shown].mean() - right[~shown].mean() > 0.3
    assert gaps(shown, photos)[0].value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("n_with", "measured"), [(9, False), (10, True), (90, True), (91, False)])
def test_too_few_photos_on_either_side_are_left_alone(n_with, measured):
    found = gaps(np.arange(100) < n_with, setting(np.arange(100) % 3 > 0))
    assert (found[0] is not None) == measured


def test_intervals_cover_and_p_values_keep_their_level_for_a_rare_cue():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        test = rng.random(200) < 0.5
        shown = rng.random((12, 200)) < 0.12
        photos = setting(rng.random(200) < np.where(test, 0.65, 0.97), np.where(test, "test", "train"))
        found += gaps(shown, photos)[:2]
    p = np.array([one.p for one in found if one])
    assert len(p) > 250
    assert np.mean(p < 0.05) < 0.085
    assert np.mean([one.low <= 0 <= one.high for one in found if one]) > 0.915


def test_a_class_that_is_always_right_has_no_gap_but_an_honest_interval():
    (found,) = gaps(np.arange(100) < 20, setting(np.ones(100, bool)))
    assert found.value == pytest.approx(0, abs=1e-9)
    assert found.p == pytest.approx(1, abs=1e-6)
    assert found.low < -0.02
    assert found.high > 0.02


def test_bounds_stay_gaps_and_the_seed_decides():
    shown = np.arange(40) < 20
    (one,), (two,) = gaps(shown, setting(shown)), gaps(shown, setting(shown))
    assert one == two
    assert -1 <= one.low <= one.value <= one.high <= 1
    assert one.value > 0.9


def test_a_covariates_scale_does_not_matter():
    rng = np.random.default_rng(4)
    beside, shown, right = rng.normal(size=(200, 3)), rng.random(200) < 0.4, rng.random(200) < 0.6
    folds = np.arange(200) % FOLDS
    one = adjusted_gap(shown, right, beside, folds, 0.95)
    other = adjusted_gap(shown, right, beside * [1e6, 1e-3, 1.0] + [0, 5, 1e4], folds, 0.95)
    assert one.value == pytest.approx(other.value, abs=1e-6)
    assert one.p == pytest.approx(other.p, abs=1e-5)
