"""The peers of the benchmark: their formulas on numbers worked by hand, and one interface that all of them keep."""

from dataclasses import fields, replace

import numpy as np
import pytest
from peers import PEERS, Evidence, Ranking, ravl_clusters
from peers.b2t import wrong_minus_right
from peers.cleanlab_property import cross_validated_accuracy, label_prediction_error, stratified_folds
from peers.confusion_cells import largest_cell
from peers.domino import Images, fit_mixture, maximise
from peers.interface import top_regions
from peers.kmedoids import Clusters, clipped_cosine_distance, kmedoids, silhouette
from peers.ravl import cluster_gaps, cluster_influence
from peers.slices import enrichment
from peers.spuriosity_rankings import spuriosity_rankings
from peers.spurlens import spurlens_gaps, top_minus_bottom
from sklearn.metrics import silhouette_score
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.naive_bayes import GaussianNB

INFORMED = sorted(set(PEERS) - {"random"})
PLANTED = 3


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_evidence(present: np.ndarray, label: np.ndarray, predicted: np.ndarray, n_classes: int, seed: int) -> Evidence:
    """Lays out one region per shown cue and one of background per image; the cues' directions are orthogonal."""
    draw = rng(seed)
    q, n = present.shape
    cue, image = np.nonzero(np.vstack([present, np.ones((1, n), bool)]))
    embeddings = np.eye(q + 1, 16)[cue] + draw.normal(0, 0.05, (len(cue), 16))
    region_probs = draw.dirichlet(np.ones(n_classes), len(cue))
    region_probs[cue == PLANTED] = 0.02 / (n_classes - 1)
    region_probs[cue == PLANTED, 0] = 0.98
    score = np.where(present, draw.uniform(0.6, 1.0, present.shape), 0).astype(np.float32)
    whole = np.vstack([present, np.eye(n_classes)[label].T]).T + draw.normal(0, 0.1, (n, q + n_classes))
    return Evidence(
        embeddings=(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32),
        image=image.astype(np.int64),
        region_probs=region_probs.astype(np.float32),
        label=label,
        probs=(0.1 / n_classes + 0.9 * np.eye(n_classes)[predicted]).astype(np.float32),
        image_embedding=whole.astype(np.float32),
        cue_present=present,
        cue_score=score,
        cue_of_region=np.where(cue < q, cue, -1),
        cue_words=tuple(f"cue {i}" for i in range(q)),
    )


def cue_evidence(seed: int = 0) -> Evidence:
    """Cue 3 goes with class 0 in nine images of ten, and the model follows the cue, never the object."""
    draw = rng(seed)
    label = np.repeat([0, 1], 100)
    present = draw.random((6, 200)) < 0.5
    present[PLANTED] = draw.random(200) < np.where(label == 0, 0.9, 0.1)
    return make_evidence(present, label, np.where(present[PLANTED], 0, 1), 2, seed)


def noise_evidence(n_classes: int, seed: int) -> Evidence:
    draw = rng(seed)
    label = draw.integers(0, n_classes, 150)
    predicted = np.where(draw.random(150) < 0.8, label, draw.integers(0, n_classes, 150))
    return make_evidence(draw.random((8, 150)) < 0.4, label, predicted, n_classes, seed)


def check(ranking: Ranking, evidence: Evidence) -> None:
    """Asserts what a ranking promises beyond what it checks itself."""
    assert ranking.cue.min(initial=0) >= -1
    assert ranking.cue.max(initial=0) < len(evidence.cue_words)
    assert ((ranking.label >= 0) & (ranking.label < evidence.n_classes)).all()
    assert ranking.reported.dtype == bool
    named = [pair for pair in zip(ranking.cue.tolist(), ranking.label.tolist(), strict=True) if pair[0] >= 0]
    assert len(set(named)) == len(named)
    regions = ranking.region[ranking.region >= 0]
    assert len(set(regions.tolist())) == len(regions)
    assert (regions < len(evidence.image)).all()


@pytest.mark.parametrize("name", INFORMED)
def test_an_obvious_cue_comes_first_and_is_reported(name):
    evidence = cue_evidence()
    ranking = PEERS[name](evidence, rng())
    check(ranking, evidence)
    assert ranking.cue[0] == PLANTED
    assert ranking.reported[0]
    assert (evidence.cue_of_region[ranking.region] == PLANTED).all()


@pytest.mark.parametrize("name", INFORMED)
def test_the_first_entry_is_about_the_class_that_the_cue_speaks_for(name):
    assert PEERS[name](cue_evidence(), rng()).label[0] == 0


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("name", sorted(PEERS))
def test_noise_gives_a_valid_ranking(name, n_classes):
    for seed in range(3):
        evidence = noise_evidence(n_classes, seed)
        ranking = PEERS[name](evidence, rng(seed))
        check(ranking, evidence)
        assert len(ranking.cue)


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_model_without_errors_or_a_class_without_images_breaks_nothing(name):
    evidence = noise_evidence(3, 0)
    label = np.where(evidence.label == 2, 1, evidence.label)
    perfect = replace(evidence, label=label, probs=np.eye(3, dtype=np.float32)[label])
    check(PEERS[name](perfect, rng()), perfect)


@pytest.mark.parametrize("name", ["confusion_cells", "domino", "spuriosity_rankings"])
def test_a_model_without_errors_leaves_nothing_to_report(name):
    evidence = noise_evidence(2, 0)
    perfect = replace(evidence, probs=np.eye(2, dtype=np.float32)[evidence.label])
    assert not PEERS[name](perfect, rng()).reported.any()


@pytest.mark.parametrize("name", sorted(PEERS))
def test_the_same_generator_gives_the_same_ranking_and_leaves_the_evidence_alone(name):
    evidence, untouched = noise_evidence(3, 1), noise_evidence(3, 1)
    one, two = (PEERS[name](evidence, rng(5)) for _ in range(2))
    for field in fields(Ranking):
        assert np.array_equal(getattr(one, field.name), getattr(two, field.name))
    for field in fields(Evidence):
        assert np.array_equal(getattr(evidence, field.name), getattr(untouched, field.name))


def test_random_is_random():
    evidence = cue_evidence()
    places = [int((PEERS["random"](evidence, rng(seed)).cue == PLANTED).argmax()) for seed in range(300)]
    # The first of two entries among twelve in random order: place 0 to 10, on average (13 / 3) - 1.
    assert np.mean(places) == pytest.approx(10 / 3, abs=0.5)
    assert set(places) == set(range(11))
    assert PEERS["random"](evidence, rng()).reported.tolist() == [True] * 5 + [False] * 7


def test_rankings_and_evidence_that_contradict_themselves_are_refused():
    one = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="never rise"):
        Ranking(one, one, np.array([0.1, 0.2]), one > 0, np.full(10, -1))
    with pytest.raises(ValueError, match="region must be"):
        Ranking(one, one, np.array([0.2, 0.1]), one > 0, np.full(9, -1))
    with pytest.raises(ValueError, match="cue_score must begin with"):
        replace(cue_evidence(), cue_score=np.zeros((1, 200), np.float32))


def test_top_regions_are_those_in_images_that_score_the_cue_highest():
    evidence = cue_evidence()
    regions = top_regions(evidence, np.array([PLANTED, 1]))
    scores = evidence.cue_score[PLANTED, evidence.image[regions]]
    assert np.array_equal(scores, np.sort(evidence.cue_score[PLANTED])[::-1][:10])
    few = replace(evidence, cue_of_region=np.where(np.arange(len(evidence.image)) < 4, PLANTED, -1))
    assert (top_regions(few, np.array([PLANTED, 1])) >= 0).sum() == 4


def test_spurlens_gaps_by_hand():
    # Class 0: of its top two both are right, of its bottom two one. Class 1: its top two are both taken for 0, its
    # bottom two are right.
    label = np.repeat([0, 1], 4)
    predicted = np.array([0, 0, 1, 0, 0, 0, 1, 1])
    evidence = make_evidence(np.ones((1, 8), bool), label, predicted, 2, 0)
    score = np.array([[0.9, 0.8, 0.2, 0.1, 0.9, 0.8, 0.2, 0.1]], np.float32)
    gaps = spurlens_gaps(replace(evidence, cue_score=score), rng())
    assert gaps.accuracy.tolist() == [[0.5, -1.0]]
    assert gaps.hallucination.tolist() == [[1.0, -0.5]]


def test_spurlens_breaks_ties_at_random_and_never_lets_top_and_bottom_overlap():
    outcome = np.arange(20) < 10
    tied = [top_minus_bottom(np.zeros((1, 20)), outcome, 50, rng(seed))[0] for seed in range(20)]
    assert len(set(tied)) > 3
    assert top_minus_bottom(-np.arange(20.0)[None], outcome, 50, rng())[0] == 1
    assert top_minus_bottom(np.zeros((2, 1)), np.array([True]), 50, rng()).tolist() == [0, 0]


def test_spurlens_finds_gaps_in_noise():
    gaps = [
        top_minus_bottom(rng(s).random((64, 200)), rng(s + 99).random(200) < 0.9, 50, rng()).max() for s in range(40)
    ]
    assert np.mean(gaps) == pytest.approx(0.14, abs=0.02)  # as stated for 64 unrelated cues at accuracy 0.9


def test_ravl_gap_by_hand():
    label = np.array([0, 0, 1, 1])
    shown = np.array([[True, False, True, False], [True, True, False, False]])
    gap = cluster_gaps(shown, label, np.array([True, False, False, True]), 2)
    assert gap.tolist() == [[1, -1], [0, 0]]  # G = 2 and 0: the second cluster leaves no image to compare with
    # One image of four inside, right; one of three outside: w = 2 · 1 / 4, gap = 1/2 · (1 - 1/3).
    lone = cluster_gaps(np.arange(4)[None] == 0, np.zeros(4, int), np.array([True, False, False, True]), 1)
    assert lone[0, 0] == pytest.approx(1 / 3)


def test_ravl_influence_by_hand():
    # Class 1 holds images 1 to 4, all taken for class 0. The region strongest for 0 lies in the cluster in image 1,
    # not in 2; image 3 has one region only; image 4 does not show the cluster.
    evidence = make_evidence(np.zeros((1, 5), bool), np.array([0, 1, 1, 1, 1]), np.zeros(5, int), 2, 0)
    image = np.array([0, 0, 1, 1, 2, 2, 3, 4, 4])
    speaks = np.array([0.9, 0.1, 0.8, 0.3, 0.2, 0.7, 0.9, 0.5, 0.6], np.float32)
    evidence = replace(
        evidence,
        image=image,
        region_probs=np.stack([speaks, 1 - speaks], axis=1),
        embeddings=np.zeros((9, 2), np.float32),
        cue_of_region=np.full(9, -1),
    )
    found = Clusters(np.array([0, 1, 0, 1, 0, 1, 0, 1, 1]), np.array([0, 1]), 0.5)
    gap = np.array([[0.2, -0.2], [0.2, 0.0]])
    assert cluster_influence(evidence, found, gap).tolist() == [0.5, -np.inf]
    assert cluster_influence(evidence, found, -gap).tolist() == [-np.inf, -np.inf]


def test_ravl_reports_clusters_of_noise():
    evidence = [noise_evidence(7, seed) for seed in range(4)]
    assert any(PEERS["ravl"](e, rng()).reported.any() for e in evidence)


def test_ravl_clusters_a_sample_of_many_regions_and_places_the_others():
    evidence = cue_evidence()
    count = len(evidence.image)
    row = rng(1).permutation(np.arange(6000 + count) % count)
    per_region = ("embeddings", "image", "region_probs", "cue_of_region")
    many = replace(evidence, **{name: getattr(evidence, name)[row] for name in per_region})
    ranking = PEERS["ravl"](many, rng())
    check(ranking, many)
    assert ranking.cue[0] == PLANTED
    assert set(range(6)) <= set(ranking.cue.tolist())


def test_a_cluster_of_no_candidate_is_named_so():
    evidence = cue_evidence()
    nameless = replace(evidence, cue_of_region=np.full(len(evidence.image), -1))
    ranking = PEERS["ravl"](nameless, rng())
    assert (ranking.cue == -1).all()
    assert len(ranking.cue) == 7  # six cues and the background, none merged with another


def test_ravl_lists_regions_from_the_medoid_outwards():
    evidence = cue_evidence()
    chosen = evidence.embeddings[PEERS["ravl"](evidence, rng()).region]
    assert (np.diff(chosen @ chosen[0]) <= 0).all()


def test_ravl_leaves_out_clusters_without_regions():
    label = np.repeat([0, 1], 20)
    present = np.stack([rng(1).random(40) < np.where(label == 1, 0.8, 0.3), rng(2).random(40) < 0.5])
    evidence = make_evidence(present, label, np.where(present[0], 1, 0), 2, 0)
    three_points = replace(evidence, embeddings=np.eye(3, dtype=np.float32)[evidence.cue_of_region])
    ranking = PEERS["ravl"](three_points, rng())  # k is at least 4, so that a cluster stays empty
    assert sorted(ranking.cue.tolist()) == [-1, 0, 1]


def test_kmedoids_finds_separate_groups_and_their_middles():
    centres = np.eye(4, 12)
    points = np.repeat(centres, 30, axis=0) + rng().normal(0, 0.05, (120, 12))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    distance = clipped_cosine_distance(points.astype(np.float32))
    found = kmedoids(distance, 4, rng())
    for group in found.cluster.reshape(4, 30):
        assert len(set(group.tolist())) == 1
    for i, medoid in enumerate(found.medoid):
        members = np.flatnonzero(found.cluster == i)
        assert medoid == members[distance[np.ix_(members, members)].sum(axis=1).argmin()]
    swept = ravl_clusters(points.astype(np.float32), 2, rng())
    assert len(swept.medoid) == 4
    assert swept.silhouette == pytest.approx(found.silhouette)


def test_distances_are_clipped_at_a_right_angle():
    e = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8]], np.float32)
    assert clipped_cosine_distance(e)[0] == pytest.approx([0, 1, 1, 0.4])


def test_silhouette_is_that_of_scikit_learn_even_with_a_lone_member():
    points = rng(1).normal(size=(60, 5)).astype(np.float32)
    distance = clipped_cosine_distance(points / np.linalg.norm(points, axis=1, keepdims=True))
    cluster = rng(2).integers(0, 4, 60)
    cluster[7] = 9
    expected = silhouette_score(distance, cluster, metric="precomputed")
    assert silhouette(distance, cluster) == pytest.approx(expected, abs=1e-5)
    assert silhouette(distance, np.zeros(60, int)) == -1


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_regions_for_any_k_make_one_cluster(n):
    found = ravl_clusters(np.ones((n, 1), np.float32), 3, rng())
    assert found.cluster.tolist() == [0] * n
    assert len(found.medoid) == min(n, 1)


def test_equal_regions_do_not_stop_kmedoids():
    found = kmedoids(np.zeros((12, 12), np.float32), 4, rng())
    assert found.silhouette == -1


@pytest.mark.parametrize("n_classes", [2, 7])
def test_domino_likelihood_never_falls(n_classes):
    evidence = noise_evidence(n_classes, 2)
    one_hot = np.eye(n_classes)
    images = Images(evidence.image_embedding.astype(np.float64), one_hot[evidence.label], one_hot[evidence.predicted])
    fit = fit_mixture(images, rng())
    assert len(fit.likelihoods) > 2
    assert np.diff(fit.likelihoods).min() > -1e-3
    assert fit.likelihoods[-1] > fit.likelihoods[0]
    assert fit.share.sum(axis=1) == pytest.approx(np.ones(150))


def test_domino_parameters_by_hand():
    images = Images(np.array([[0.0], [2.0], [5.0]]), np.eye(2)[[0, 0, 1]], np.array([[0.5, 0.5], [0.9, 0.1], [0, 1]]))
    mixture = maximise(images, np.array([[1.0, 0], [1, 0], [0, 1]]))
    assert mixture.weight == pytest.approx([2 / 3, 1 / 3])
    assert mixture.mean[:, 0] == pytest.approx([1, 5])
    assert mixture.variance[:, 0] == pytest.approx([1, 0], abs=2e-6)
    assert mixture.y[0] == pytest.approx([1, 0])
    assert mixture.y_hat[0] == pytest.approx([0.7, 0.3])


def test_domino_keeps_errors_apart_when_labels_weigh_more():
    evidence = cue_evidence()
    images = Images(np.zeros((200, 1)), np.eye(2)[evidence.label], np.eye(2)[evidence.predicted])
    share = fit_mixture(images, rng()).share
    wrong = ~evidence.correct
    assert (share[wrong].sum(axis=0) * share[~wrong].sum(axis=0)).max() < 1e-3


def test_enrichment_by_hand():
    present = np.array([[1, 1, 0, 1], [0, 0, 1, 1]], bool)
    among = np.array([True, True, True, False])
    assert enrichment(present, np.array([1, 0, 0, 1.0]), among).tolist() == [0.5, -0.5]
    assert enrichment(present, np.zeros(4), among).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["confusion_cells", "domino"])
def test_a_cue_that_errors_lack_speaks_for_their_true_class(name):
    evidence = cue_evidence()
    kept = (evidence.label == 0) | ~evidence.cue_present[PLANTED]
    one_sided = replace(evidence, probs=np.where(kept[:, None], evidence.probs, np.float32([0.1, 0.9])))
    ranking = PEERS[name](one_sided, rng())
    assert (ranking.cue[0], ranking.label[0]) == (PLANTED, 0)


def test_the_largest_cell_is_off_the_diagonal():
    predicted = np.array([0, 0, 0, 0, 2, 1, 0, 0, 2])
    evidence = make_evidence(np.ones((1, 9), bool), np.array([0, 0, 0, 0, 0, 1, 1, 1, 2]), predicted, 3, 0)
    assert largest_cell(evidence) == (1, 0)


def test_cleanlab_accuracy_is_that_of_gaussian_naive_bayes():
    label = rng(3).integers(0, 3, 90)
    score = rng(4).normal(size=(4, 90)) + label * np.array([[0], [0.5], [1], [3]])
    folds = PredefinedSplit(stratified_folds(label))
    expected = [cross_val_score(GaussianNB(), row[:, None], label, cv=folds).mean() for row in score]
    assert cross_validated_accuracy(score, label) == pytest.approx(expected)


def test_cleanlab_flags_noise_on_unbalanced_labels_and_only_there():
    noise = rng(5).random((20, 400))
    unbalanced = label_prediction_error(noise, (np.arange(400) < 80).astype(int))
    balanced = label_prediction_error(noise, np.arange(400) % 2)
    assert (unbalanced < 0.3).all()
    assert (balanced > 0.3).all()


def test_cleanlab_takes_the_index_of_the_majority_class_for_its_count():
    label = np.array([0] * 20 + [1] * 20 + [2] * 60)
    constant = np.zeros((1, 100))  # predicts the majority: accuracy 0.6, error 0.4 / (1 - 2 / 100)
    assert label_prediction_error(constant, label)[0] == pytest.approx(0.4 / 0.98)


def test_b2t_score_by_hand():
    # Class 1 has no wrong image and class 2 no right one: nothing to compare.
    label, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 0, 0, 1, 1, 0])
    evidence = make_evidence(np.ones((1, 6), bool), label, predicted, 3, 0)
    score = np.array([[0.9, 0.2, 0.4, 0.5, 0.1, 0.7]], np.float32)
    assert wrong_minus_right(replace(evidence, cue_score=score)) == pytest.approx(np.array([[0.6, 0.0, 0.0]]))


def test_b2t_joins_classes_that_a_cue_turns_into_the_same_one():
    # Two wrong images of class 1 that show the cue are taken for 0 and one for 2, the wrong one of class 2 for 0.
    label = np.array([1, 1, 1, 1, 2, 2])
    predicted = np.array([0, 0, 2, 1, 0, 2])
    evidence = make_evidence(np.ones((1, 6), bool), label, predicted, 3, 0)
    score = np.array([[0.4, 0.4, 0.4, 0.1, 0.9, 0.1]], np.float32)
    ranking = PEERS["b2t"](replace(evidence, cue_score=score), rng())
    assert ranking.label.tolist() == [0]
    assert ranking.score == pytest.approx([0.8])


def test_b2t_never_sees_a_cue_that_no_wrong_image_shows():
    evidence = cue_evidence()
    present = evidence.cue_present.copy()
    present[0] &= evidence.correct
    ranking = PEERS["b2t"](replace(evidence, cue_present=present), rng())
    assert 0 not in ranking.cue
    assert set(range(1, 6)) <= set(ranking.cue.tolist())


def test_spuriosity_rankings_compare_ten_images_at_either_end():
    label = np.zeros(40, int)
    predicted = np.array([0] * 12 + [1] * 4 + [0] * 14 + [1] * 10)
    evidence = make_evidence(np.ones((1, 40), bool), label, predicted, 2, 0)
    falling = replace(evidence, cue_score=np.linspace(1, 0.1, 40, dtype=np.float32)[None])
    ranking = spuriosity_rankings(falling, rng())
    assert ranking.score[ranking.label == 0].tolist() == [1.0]
