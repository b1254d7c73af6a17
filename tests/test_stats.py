import numpy as np
import pytest
from scipy import stats as scipy_stats

from discovery import stats


def test_logit_is_finite_at_zero_and_one():
    assert np.isfinite(stats.logit(np.array([0.0, 1.0]))).all()
    assert stats.logit(np.array([0.5]))[0] == pytest.approx(0)
    assert stats.logit(np.array([0.8]))[0] == pytest.approx(np.log(4))


def test_wilson_agrees_with_a_published_value():
    # Newcombe (1998), table I: 81 of 263.
    found = stats.wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_gap_agrees_with_a_published_value():
    # Newcombe (1998), table II, method 10, case (a): 56/70 - 48/80.
    found = stats.gap(56, 70, 48, 80)
    assert found.value == pytest.approx(0.2)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_gap_of_nothing_is_nan():
    assert np.isnan(stats.gap(0, 0, 5, 9).value)


def test_bias_is_zero_without_any_difference_and_one_when_perfect():
    assert stats.presence_bias(5, 10, 10, 20).cramers_v == pytest.approx(0)
    perfect = stats.presence_bias(10, 10, 0, 20)
    assert perfect.cramers_v == pytest.approx(1)
    assert perfect.p < 1e-6


def test_bias_is_signed_and_v_is_not():
    found = stats.presence_bias(1, 20, 15, 20)
    assert found.z < 0 < found.cramers_v


@pytest.mark.parametrize("counts", [(0, 10, 0, 20), (10, 10, 20, 20), (0, 0, 5, 20)])
def test_a_cue_that_never_varies_is_not_tied(counts):
    assert stats.presence_bias(*counts).p == 1


def test_sign_flip_p_values_are_uniform_or_larger_under_the_null():
    rng = np.random.default_rng(0)
    p = [stats.sign_flip_p(rng.normal(size=20), 499, rng) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) <= 0.08
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_sign_flip_p_is_small_for_a_steady_effect_and_never_zero():
    rng = np.random.default_rng(0)
    p = stats.sign_flip_p(np.full(40, 0.3), 999, rng)
    assert p == pytest.approx(1 / 1000, abs=2e-3)
    assert p > 0


def test_zeros_decide_nothing():
    assert stats.sign_flip_p(np.zeros(30), 99, np.random.default_rng(0)) == 1


def test_adjust_is_benjamini_hochberg_and_leaves_the_untried_out():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    found = stats.adjust(p)
    assert np.isnan(found[1])
    expected = scipy_stats.false_discovery_control([0.01, 0.04, 0.03])
    np.testing.assert_allclose(found[[0, 2, 3]], expected)


def test_mean_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(150):
        found = stats.mean_interval(rng.normal(1.0, 2.0, 30), 400, rng)
        hits += found.low <= 1.0 <= found.high
    assert 0.87 <= hits / 150 <= 0.99


def test_mean_interval_of_equal_values_is_a_point():
    found = stats.mean_interval(np.full(9, 0.25), 100, np.random.default_rng(0))
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)


def test_detectable_gap_shrinks_with_support_and_is_one_without_any():
    few = stats.detectable_gap(10, 10, 0.8, 0.05, 0.8)
    many = stats.detectable_gap(1000, 1000, 0.8, 0.05, 0.8)
    assert many < few <= 1
    assert stats.detectable_gap(0, 10, 0.8, 0.05, 0.8) == 1
