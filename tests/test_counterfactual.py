"""Repair by counterfactual copies: a red square that goes with cats without one exception is let go all the same."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from test_augment import CLASSES, Cells, judged, make_task

from discovery.errors import BackendError, DataError
from discovery.repairs import counterfactual, groupdro
from discovery.repairs.altered import Alterations, Copies
from discovery.repairs.counterfactual import change, enlarged
from discovery.repairs.menu import load_repair


@pytest.fixture
def tied(tmp_path, rng):
    """The model of `make_task`, with only those photos to fit on that keep to the tie: no group could be balanced."""
    task = make_task(tmp_path, rng)
    kept = np.flatnonzero(task.shown[:, 0] == (task.label == 0))
    features = task.features()[kept]
    of = np.unique(task.label[kept], return_inverse=True)[1]
    groups = replace(task.groups, of=of, names=CLASSES, label=np.array([0, 1]))
    return replace(
        task,
        config=task.config.model_copy(update={"copies": 20}),
        sample_id=task.sample_id[kept],
        label=task.label[kept],
        shown=task.shown[kept],
        groups=groups,
        features=lambda: features,
    )


def test_no_exception_to_the_tie_is_needed(tied):
    with pytest.raises(DataError, match="no group to balance"):
        load_repair("groupdro")(tied)
    before = judged(tied.head(), tied.model)
    repaired = load_repair("counterfactual")(tied)
    after = judged(repaired.head, tied.model)
    assert after.min() > before.min() + 0.3
    assert repaired.facts["copies"] == {"paste: made": 20, "removal: made": 20}
    assert set(repaired.facts["group_weights"]) == {"cat", "dog", "cat|red square removed", "dog|red square pasted in"}
    np.testing.assert_array_equal(repaired.head.coef, load_repair("counterfactual")(tied).head.coef)


def test_how_fast_weight_moves_to_the_worst_group_is_what_was_best_on_held_out_photos(tied, monkeypatch):
    means = {0.05: 0.6, 0.01: 0.7, 0.0: 0.9}
    monkeypatch.setattr(
        counterfactual, "_held_out", lambda task, copies, whole: (means[round(whole.config.group_step, 4)], 0.1)
    )
    facts = load_repair("counterfactual")(tied).facts
    assert facts["group_step"] == 0
    assert [row["mean_of_groups"] for row in facts["held_out"]] == [0.6, 0.7, 0.9]
    assert len(set(facts["group_weights"].values())) == 1


def test_a_copy_is_held_out_with_its_photo_and_not_fitted_on_with_its_source(tied, monkeypatch):
    made = Alterations(tied)
    copies = Copies.of(change(tied, made), tied, made)
    folds, fitted, own = tied.folds(), [], groupdro.train

    def spy(task, groups):
        fitted.append(task)
        return own(task, groups)

    monkeypatch.setattr(groupdro, "train", spy)
    mean, worst = counterfactual._held_out(tied, copies, enlarged(tied, copies))
    assert 0 <= worst <= mean <= 1
    known = {features.tobytes(): k for k, features in enumerate(copies.features)}
    for fold, task in enumerate(fitted):
        used = [known[row.tobytes()] for row in task.features() if row.tobytes() in known]
        assert used
        assert (folds[copies.row[used]] != fold).all()
        assert (folds[copies.source[used]] != fold).all()


def test_a_copy_shows_the_cue_where_its_photo_did_not_and_the_other_way(tied):
    made = Alterations(tied)
    copies = Copies.of(change(tied, made), tied, made)
    joint, n = enlarged(tied, copies), len(tied.label)
    assert len(copies.row) == 40
    np.testing.assert_array_equal(joint.shown[n:, 0], ~tied.shown[copies.row, 0])
    np.testing.assert_array_equal(joint.label[n:], tied.label[copies.row])
    assert joint.groups.sizes.tolist() == [*np.bincount(tied.label), 20, 20]
    assert joint.features().shape == (n + 40, 147)


def test_a_covered_cue_is_what_another_photo_shows_there(tied):
    made = Alterations(tied)
    row, donor = (int(np.flatnonzero(tied.shown[:, 0] == there)[0]) for there in (True, False))
    copy = made.covered(row, donor, "c")
    assert (copy.row, copy.source, copy.cue) == (row, donor, 0)
    np.testing.assert_array_equal(copy.view[:7, :7], made.seen(donor).view[:7, :7])
    np.testing.assert_array_equal(copy.view[12:], made.seen(row).view[12:])


@pytest.mark.parametrize(("box", "spared"), [((0, 0, 10, 10), True), ((20, 20, 40, 40), False)])
def test_what_would_hide_the_object_is_not_pasted(box, spared, tied):
    samples = tied.run.read("samples")
    names = ("object_x0", "object_y0", "object_x1", "object_y1")
    samples = samples.with_columns(pl.lit(float(v)).cast(pl.Float32).alias(k) for k, v in zip(names, box, strict=True))
    tied.run.write("samples", samples, shard=0, fingerprint="x")
    made = Alterations(tied)
    source, row = (int(np.flatnonzero(tied.shown[:, 0] == there)[0]) for there in (True, False))
    assert (made.with_cue(row, source, "c", "object", gently=True) is None) == spared
    assert made.counts["paste: would hide the object"] == int(spared)


def test_rivals_take_turns(tied, rng):
    label = np.array([*tied.label[:60], *([2] * 40)])
    other = replace(tied, label=label, shown=tied.shown[:100], sample_id=tied.sample_id[:100], groups=None)
    object.__setattr__(other, "model", Owls())
    made = Alterations(other)
    pasted = [copy.row for copy in change(other, made) if not other.shown[copy.row, 0]]
    assert np.bincount(label[pasted]).tolist() == [0, 10, 10]


class Owls(Cells):
    classes = (*CLASSES, "owl")


def test_a_model_without_features_and_a_cue_without_regions_are_refused(tied):
    shown = tied.run.read("presences").with_columns(region_ids=pl.lit([], pl.List(pl.String)))
    tied.run.write("presences", shown, shard=0, fingerprint="x")
    named = replace(tied, config=tied.config.model_copy(update={"method": "counterfactual"}))
    with pytest.raises(DataError, match=r"counterfactual could change no photo for red square .*no region in view"):
        load_repair("counterfactual")(named)
    object.__setattr__(named, "model", object())
    with pytest.raises(BackendError, match="counterfactual needs a model that gives its features"):
        load_repair("counterfactual")(named)
