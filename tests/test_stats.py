import itertools

import numpy as np
import pytest
from scipy import sparse
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
    p = [stats.sign_flip_p(rng.normal(size=20)) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) <= 0.08
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("seed", range(4))
def test_the_sign_flip_test_counts_all_signs(seed):
    values = np.random.default_rng(seed).normal(0.4, 1.0, size=12)
    signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    exact = np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-9)
    assert exact <= stats.sign_flip_p(values) <= exact * 1.02 + 2**-11


@pytest.mark.parametrize("n", [1, 10, 40, 300])
def test_n_photos_that_all_agree_are_no_surer_than_all_their_signs(n):
    assert stats.sign_flip_p(np.full(n, -0.3)) == pytest.approx(2.0 ** (1 - n))


def test_zeros_decide_nothing():
    assert stats.sign_flip_p(np.zeros(30)) == 1
    assert stats.sign_flip_p(np.array([0.0, 1.0, 0.0, 1.0])) == 0.5


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


@pytest.mark.parametrize("high", [4, 25, 400])
def test_table_p_is_fishers_exact_test(high):
    rng = np.random.default_rng(high)
    for table in rng.integers(0, high, (60, 2, 2)):
        if table.any(axis=0).all() and table.any(axis=1).all():
            assert stats.table_p(table) == pytest.approx(scipy_stats.fisher_exact(table).pvalue, rel=1e-8)


def test_a_table_with_an_empty_margin_says_nothing():
    assert stats.table_p(np.array([[0, 0], [3, 4]])) == stats.table_p(np.array([[0, 3], [0, 4]])) == 1


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (3, 7), (400, 401)])
def test_wilson_is_scipys_and_never_leaves_out_the_share(successes, n):
    expected = scipy_stats.binomtest(successes, n).proportion_ci(0.9, method="wilson")
    found = stats.wilson(successes, n, 0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def max_t(shown: np.ndarray, right: np.ndarray, strata: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    strata = np.zeros(len(right)) if strata is None else strata
    return stats.max_t_p(sparse.csr_matrix(shown), right, strata, 499, np.random.default_rng(seed))


def test_max_t_errs_no_oftener_than_it_says_over_many_cues_together():
    rng = np.random.default_rng(1)
    smallest = [max_t(rng.random((25, 120)) < 0.3, rng.random(120) < 0.7, seed=trial).min() for trial in range(200)]
    assert 0.01 <= np.mean(np.array(smallest) <= 0.05) <= 0.09


def test_max_t_of_one_cue_is_its_permutation_p_value():
    rng = np.random.default_rng(2)
    shown, right = rng.random(200) < 0.4, rng.random(200) < 0.6
    table = [[(shown & right).sum(), (shown & ~right).sum()], [(~shown & right).sum(), (~shown & ~right).sum()]]
    # Two sides taken by distance from the mean rather than by likelihood, hence only near.
    assert max_t(shown[None], right)[0] == pytest.approx(stats.table_p(np.array(table)), abs=0.08)


def test_cues_in_the_same_photos_cost_no_more_than_one():
    rng = np.random.default_rng(3)
    right = np.arange(150) < 100
    shown = rng.random(150) < np.where(right, 0.55, 0.3)
    assert max_t(np.stack([shown] * 30), right)[0] == max_t(shown[None], right)[0]


def test_max_t_shuffles_within_strata_only():
    strata = np.repeat([0, 1], 150)
    rng = np.random.default_rng(4)
    right = rng.random(300) < np.where(strata, 0.98, 0.4)
    shown = rng.random((1, 300)) < np.where(strata, 0.8, 0.2)
    assert max_t(shown, right)[0] < 0.01
    assert max_t(shown, right, strata)[0] > 0.05


def test_max_t_sees_within_strata_what_they_hide_together():
    strata = np.repeat([0, 1], 150)
    rng = np.random.default_rng(4)
    shown = rng.random((1, 300)) < np.where(strata, 0.25, 0.75)  # the cue helps, but is rarer where it is easy
    right = rng.random(300) < 0.35 + 0.3 * strata + 0.25 * shown[0]
    assert max_t(shown, right)[0] > 0.05
    assert max_t(shown, right, strata)[0] < 0.01


def test_max_t_finds_a_real_gap_among_many_cues_and_is_never_zero():
    rng = np.random.default_rng(5)
    shown = rng.random((40, 300)) < 0.3
    right = rng.random(300) < np.where(shown[7], 0.4, 0.85)
    p = max_t(shown, right)
    assert p[7] == 1 / 500
    assert (np.delete(p, 7) > 0.05).all()


def test_max_t_of_what_never_varies_is_one():
    right = np.arange(40) < 20
    assert max_t(np.stack([np.ones(40, bool), np.zeros(40, bool)]), right).tolist() == [1, 1]
    assert max_t((np.arange(40) < 9)[None], np.ones(40, bool)).tolist() == [1]


def test_max_t_in_chunks_is_max_t(monkeypatch):
    rng = np.random.default_rng(6)
    shown, right = rng.random((5, 90)) < 0.4, rng.random(90) < 0.5
    whole = max_t(shown, right)
    monkeypatch.setattr(stats, "_chunks", lambda total, _: [100] * (total // 100) + [total % 100])
    np.testing.assert_array_equal(max_t(shown, right), whole)


def test_extremes_are_compared_and_ties_share_their_places():
    score, hit = np.array([3.0, 2, 1, 0, 0, 0]), np.array([1, 1, 0, 1, 0, 0])
    assert stats.extreme_gap(score, hit, 2) == pytest.approx(1 - 1 / 3)
    assert stats.extreme_gap(score, hit, 1) == pytest.approx(1 - 1 / 3)


def test_shared_places_are_the_mean_over_ways_to_break_ties():
    rng = np.random.default_rng(7)
    score, hit = rng.integers(0, 4, 40).astype(float), rng.random(40) < 0.6
    gaps = []
    for _ in range(4000):
        order = np.lexsort((rng.random(40), score))
        gaps.append(hit[order[-12:]].mean() - hit[order[:12]].mean())
    assert stats.extreme_gap(score, hit, 12) == pytest.approx(np.mean(gaps), abs=0.01)


@pytest.mark.parametrize(("score", "k"), [([1, 1, 1, 1], 2), ([1], 1), ([], 3), ([1, 2, 3], 0)])
def test_no_extremes_without_a_difference(score, k):
    assert np.isnan(stats.extreme_gap(np.array(score, float), np.ones(len(score), bool), k))


def test_extremes_never_overlap():
    score, hit = np.arange(7.0), np.arange(7) > 3
    assert stats.extreme_gap(score, hit, 100) == stats.extreme_gap(score, hit, 3) == 1
