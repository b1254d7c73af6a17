"""Repairs on drawn features: one direction that is the class, and one that only goes with it in most photos."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from discovery.backends.classifier import head_of
from discovery.backends.roles import Head, softmax
from discovery.config import RetrainConfig, make_config
from discovery.cue_groups import combine
from discovery.errors import BackendError, ConfigError, DataError
from discovery.fit import head_frame
from discovery.repairs.dfr import balanced_draw
from discovery.repairs.linear_fit import Penalty, Scaled, fit_linear
from discovery.repairs.menu import REPAIRS, load_repair
from discovery.repairs.project import eraser
from discovery.repairs.task import Task, group_accuracy
from discovery.repairs.wise import between
from discovery.run import Run

CLASSES = ("cat", "dog", "owl")
WIDTH = 24
SPURIOUS = 3


class Model:
    """Stands for a model whose features are drawn."""

    classes = CLASSES


def draw(rng: np.random.Generator, n: int, tied: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features, labels and presences: a cue of its own goes with each class in a share `tied` of its photos."""
    label = rng.integers(0, 3, n)
    cue = np.where(rng.random(n) < tied, label, rng.integers(0, 3, n))
    features = rng.normal(0, 1, (n, WIDTH))
    features[np.arange(n), label] += 2.0
    features[np.arange(n), SPURIOUS + cue] += 6.0
    return features.astype(np.float32), label, np.eye(3, dtype=bool)[cue]


def fit_erm(features: np.ndarray, label: np.ndarray) -> Head:
    scaled = Scaled.of(features)
    weights = fit_linear(scaled, label, np.ones(len(label)), 3, Penalty("l2", 0.01), None)
    return scaled.head(weights, CLASSES)


@pytest.fixture
def task(rng, tmp_path) -> Task:
    features, label, shown = draw(rng, 600, tied=0.9)
    config = RetrainConfig(fits=3, inverse_regularisation=(1.0, 0.1), epochs=100)
    return Task(
        run=Run(tmp_path, make_config({"dataset": {"root": "photos"}})),
        config=config,
        folder=tmp_path / "repairs",
        model=Model(),
        cues=pl.DataFrame({"label": CLASSES, "cue_id": ["a", "b", "c"], "phrase": ["sofa", "grass", "branch"]}),
        sample_id=np.arange(600).astype(str),
        label=label,
        shown=shown,
        groups=combine(label, shown, np.eye(3, dtype=bool), (CLASSES, ("sofa", "grass", "branch")), 4),
        features=lambda: features,
        head=lambda: fit_erm(features, label),
    )


def judged(head: Head, seed: int = 1) -> tuple[float, float]:
    """Returns worst-group and mean-of-groups accuracy on photos in which nothing is tied."""
    features, label, shown = draw(np.random.default_rng(seed), 3000, tied=0.0)
    groups = combine(label, shown, np.eye(3, dtype=bool), (CLASSES, "abc"), 1)
    accuracy = group_accuracy(head.logits(features).argmax(axis=1) == label, groups)
    return float(accuracy.min()), float(accuracy.mean())


@pytest.mark.parametrize("penalty", [Penalty("l2", 0.1), Penalty("l1", 0.1)])
def test_the_fit_is_that_of_scikit_learn(penalty, rng):
    features, label, _ = draw(rng, 200, 0.5)
    scaled, weight = Scaled.of(features), rng.uniform(0.5, 2.0, 200)
    ours = fit_linear(scaled, label, weight, 3, penalty, None)
    ratio = 1.0 if penalty.kind == "l1" else 0.0
    theirs = LogisticRegression(C=penalty.inverse, l1_ratio=ratio, solver="saga", tol=1e-6, max_iter=20_000)
    theirs.fit(scaled.x[:, :-1].astype(float), label, sample_weight=weight)
    np.testing.assert_allclose(ours[:, :-1], theirs.coef_, atol=0.01)


@pytest.mark.parametrize("kind", ["l1", "l2"])
@pytest.mark.parametrize("present", [(0, 1), (0, 2), (1,)])
def test_a_class_without_photos_is_never_answered(kind, present, rng):
    features, label, _ = draw(rng, 200, 0.5)
    kept = np.isin(label, present)
    scaled = Scaled.of(features[kept])
    weights = fit_linear(scaled, label[kept], np.ones(kept.sum()), 3, Penalty(kind, 0.1), None)
    answers = scaled.head(weights, CLASSES).logits(features).argmax(axis=1)
    assert set(answers.tolist()) <= set(present)


def test_two_classes_are_fitted_as_more_are(rng):
    features, label, _ = draw(rng, 200, 0.5)
    two = label < 2
    scaled = Scaled.of(features[two])
    pair = fit_linear(scaled, label[two], np.ones(two.sum()), 2, Penalty("l2", 0.1), None)
    # The minimum of the softmax loss with L2: its slope is zero there.
    slope = (softmax(scaled.x @ pair.T) - np.eye(2)[label[two]]).T @ scaled.x[:, :-1] + pair[:, :-1] / 0.1
    assert np.abs(slope).max() < 0.1


def test_a_constant_feature_does_no_harm_and_nan_is_named(rng):
    features, label, _ = draw(rng, 60, 0.5)
    features[:, 5] = 3.0
    head = fit_erm(features, label)
    assert np.isfinite(head.coef).all()
    assert (head.coef[:, 5] == 0).all()
    features[0, 0] = np.nan
    with pytest.raises(BackendError, match="NaN or infinity"):
        fit_erm(features, label)


LINEAR = [name for name in REPAIRS if name in ("dfr", "reweight", "groupdro", "jtt", "project", "spufix", "wise")]


@pytest.mark.parametrize("name", LINEAR)
def test_a_repair_lifts_the_worst_group(name, task):
    before = judged(task.head())
    after = judged(load_repair(name)(task).head)
    assert after[0] > before[0] + 0.1
    assert after[1] > before[1]


@pytest.mark.parametrize("name", LINEAR)
def test_a_repair_is_the_same_each_time(name, task):
    one, two = (load_repair(name)(task).head for _ in range(2))
    np.testing.assert_array_equal(one.coef, two.coef)
    np.testing.assert_array_equal(one.gate, two.gate)


@pytest.mark.parametrize("name", ["dfr", "reweight", "groupdro"])
def test_it_is_the_groups_that_help_not_the_refit(name, task, rng):
    to = np.arange(len(task.label))
    for y in np.unique(task.label):
        to[task.label == y] = rng.permutation(to[task.label == y])
    mixed = replace(task, shown=task.shown[to], groups=replace(task.groups, of=task.groups.of[to]))
    told, mistold = (judged(load_repair(name)(t).head)[0] for t in (task, mixed))
    assert told > mistold + 0.1


@pytest.mark.parametrize("name", ["dfr", "reweight", "groupdro"])
def test_without_an_exception_to_the_tie_there_is_nothing_to_balance(name, task):
    alone = combine(task.label, np.zeros((600, 3), bool), np.eye(3, dtype=bool), (CLASSES, "abc"), 4)
    with pytest.raises(DataError, match=r"no group to balance.*'sofa'.*retrain\.min_group = 4"):
        load_repair(name)(replace(task, groups=alone))


def test_an_interrupted_training_goes_on_from_its_checkpoint(task):
    whole = load_repair("groupdro")(task)
    seen = []

    def stop(epoch: int, _: int) -> None:
        seen.append(epoch)
        if len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_repair("groupdro")(replace(task, progress=stop))
    again = []
    resumed = load_repair("groupdro")(replace(task, progress=lambda epoch, _: again.append(epoch)))
    assert again[0] == seen[-1] + 10
    np.testing.assert_array_equal(resumed.head.coef, whole.head.coef)
    assert resumed.facts == whole.facts
    assert not list(task.folder.glob("*.pt"))


def test_a_training_that_diverges_names_the_setting(task):
    wild = replace(task, config=task.config.model_copy(update={"learning_rate": 1e30}))
    with pytest.raises(BackendError, match=r"repair of 'sofa', .* by groupdro diverged: lower retrain\.learning_rate"):
        load_repair("groupdro")(wild)


def test_after_the_projection_no_linear_layer_tells_the_cue_within_a_class(task):
    features, shown = task.features().astype(float), task.shown.astype(float)
    factors, mean = eraser(features, shown, task.label)
    out, into = factors.transpose(2, 0, 1)
    blind = features - (features - mean) @ into @ out.T
    for values, least in ((features, 0.5), (blind, 0.0)):
        inside = np.concatenate([values[task.label == y] - values[task.label == y].mean(axis=0) for y in range(3)])
        told = np.concatenate([shown[task.label == y] - shown[task.label == y].mean(axis=0) for y in range(3)])
        share = 1 - ((told - inside @ np.linalg.lstsq(inside, told)[0]) ** 2).sum() / (told**2).sum()
        assert share > least if least else share < 0.02


def test_what_a_cue_says_for_its_class_is_taken_off_and_what_it_says_against_it_stays(task):
    own, made = task.head(), load_repair("spufix")(task)
    features, label = task.features(), task.label
    taken = own.logits(features) - made.head.logits(features)
    assert (taken >= 0).all()
    for c in range(3):
        with_cue, without = (taken[(label == c) & (task.shown[:, c] == there), c].mean() for there in (True, False))
        assert with_cue > 5 * without
    assert made.facts["taken_off"].keys() == set(CLASSES)
    one = replace(task, cues=task.cues.filter(pl.col("label") == "dog"), shown=task.shown[:, 1:2])
    np.testing.assert_array_equal(load_repair("spufix")(one).head.gate.any(axis=1), [False, True, False])


def test_a_gated_layer_is_written_and_read_back_and_an_older_table_has_no_gate(task):
    head = load_repair("spufix")(task).head
    task.run.write("heads", head_frame(head), shard=0, fingerprint="x")
    read = task.run.read("heads")
    np.testing.assert_array_equal(head_of(read).logits(task.features()), head.logits(task.features()))
    older = head_of(read.drop("gate"))
    assert older.gate is None
    np.testing.assert_array_equal(older.coef, head.coef)


def test_a_cue_that_all_of_a_class_show_has_no_direction_to_take_off(task):
    everywhere = replace(task, shown=np.ones_like(task.shown))
    with pytest.raises(DataError, match="no direction to take off"):
        load_repair("spufix")(everywhere)


def test_interpolation_is_told_as_a_curve_from_the_model_to_its_repair(task):
    made = load_repair("wise")(task)
    curve = made.facts["curve"]
    assert [point["alpha"] for point in curve] == [round(0.1 * i, 1) for i in range(11)]
    assert (
        made.facts["alpha"] == max(curve, key=lambda p: (p["worst_group"], p["mean_of_groups"], -p["alpha"]))["alpha"]
    )
    own, other = task.head(), load_repair("dfr")(task).head
    np.testing.assert_allclose(between(own, other, 0.0).coef, own.coef)
    np.testing.assert_allclose(between(own, other, 1.0).coef, other.coef)


def test_jtt_knows_no_group(task, rng):
    other = replace(task, groups=replace(task.groups, of=rng.permutation(task.groups.of)))
    blind = [load_repair("jtt")(t) for t in (task, other)]
    assert 0 < blind[0].facts["first_fit_errors"] < 300
    np.testing.assert_allclose(blind[0].head.coef, blind[1].head.coef)


def test_a_draw_holds_every_group_equally_often(rng):
    group = np.repeat([0, 1, 2], [50, 20, 4])
    rows = balanced_draw(group, np.ones(74, bool), rng)
    assert np.bincount(group[rows]).tolist() == [20, 20, 20]
    assert len(set(rows[group[rows] == 0].tolist())) == 20
    assert set(rows[group[rows] == 2].tolist()) == {70, 71, 72, 73}


def test_an_unknown_repair_names_the_known_ones():
    with pytest.raises(ConfigError, match="unknown repair 'magic'; choose from dfr"):
        load_repair("magic")
