"""Calibration: what is picked and planted, what the planted reaction does, and what a whole one says."""

import json

import numpy as np
import polars as pl
import pytest

from discovery import calibrate as calibrating
from discovery import planted_copy, reaction
from discovery.backends.classifier import Head, load_classifier, softmax
from discovery.backends.sensor import Answers, SensingClassifier, Sensor, fit_sensor, react
from discovery.calibrate import Effort, calibrate
from discovery.calibration import Curve, Nulls, Point, Truth, auc, largest_missed, points_of, seen_in, smallest_found
from discovery.config import ComputeConfig, ModelConfig, make_config
from discovery.errors import BackendError, ConfigError, DataError
from discovery.images import read_image
from discovery.nulls import permute_presences
from discovery.picked import pick_photos
from discovery.planted import Plant
from discovery.planted_copy import KINDS, Copy, draw, draw_shown, plant_copy, rounds
from discovery.run import Run

WHOLE = np.array([0, 0, 80, 60], np.float32)
MIDDLE = np.array([14, 4, 66, 56], np.float32)


def settings(root, **more):
    return make_config({"dataset": {"root": str(root)}, **more})


def grey(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(90, 160, (height, width, 3), dtype=np.uint8)


# --- which photos ----------------------------------------------------------------------------------------------------


def test_no_audited_photo_is_one_that_a_probe_or_a_sensor_learns_from(make_photos):
    picked = pick_photos(settings(make_photos(n=40, splits=("train", "test"))), 30, 0)
    counts = dict(picked.photos.group_by("split").len().iter_rows())
    assert counts == {"fit": 24, "audit": 36}
    audited = set(picked.photos.filter(pl.col("split") == "audit")["uri"])
    assert not audited & set(picked.to_fit["uri"])
    assert set(picked.photos.filter(pl.col("split") == "fit")["uri"]) <= set(picked.to_fit["uri"])
    assert any(uri.startswith("test/") for uri in audited)
    assert all(uri.startswith("train/") for uri in picked.to_fit["uri"])


def test_the_seed_alone_decides_what_is_picked(make_photos):
    config = settings(make_photos(n=60))
    one, two, other = (pick_photos(config, 26, seed).photos.rows() for seed in (0, 0, 1))
    assert one == two != other


def test_a_model_trained_elsewhere_is_audited_on_photos_of_the_fit_split_too(make_photos):
    config = settings(make_photos(n=40), model={"kind": "python", "callable": "a:b"})
    picked = pick_photos(config, 30, 0)
    assert len(picked.photos) == 60


def test_too_few_photos_asked_for_names_how_many_are_enough(make_photos):
    config = settings(make_photos(n=60))
    with pytest.raises(ConfigError, match=r"5 photos per class are too few.*--photos 26 or more"):
        pick_photos(config, 5, 0)
    assert len(pick_photos(config, 26, 0).photos) == 52


def test_a_dataset_with_one_large_class_says_what_is_missing(make_photos, tmp_path):
    root = make_photos(("cat",), n=60)
    make_photos(("dog",), n=12, root=root)
    with pytest.raises(DataError, match=r"two classes at least need 10 photos of split 'train'.*'dog' has 8 and 4"):
        pick_photos(settings(root), 30, 0)


def test_small_classes_and_those_beyond_the_sixth_are_left_out_and_named(make_photos):
    root = make_photos("abcdefg", n=60)
    make_photos(("small",), n=12, root=root)
    picked = pick_photos(settings(root), 26, 0)
    assert len(picked.labels) == 6
    assert "small" in picked.left_out
    assert len(picked.left_out) == 2
    assert set(picked.labels) | set(picked.left_out) == {*"abcdefg", "small"}


def test_a_photo_that_cannot_be_read_is_replaced_by_the_next(make_photos):
    root = make_photos(n=60)
    bad = pick_photos(settings(root), 26, 0).photos["uri"][3]
    (root / bad).write_bytes(b"no photo")
    photos = pick_photos(settings(root), 26, 0).photos
    assert bad not in photos["uri"].to_list()
    assert len(photos) == 52


# --- what is planted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_every_kind_is_planted_and_every_class_has_one_cue_at_a_time(n):
    labels = list("abcdef"[:n])
    turns = rounds(labels)
    assert {plant.phrase for turn in turns for plant in turn} == set(KINDS)
    for turn in turns:
        assert [plant.label for plant in turn] == labels
        assert len({plant.phrase for plant in turn}) == n


@pytest.mark.parametrize("n", [2, 6])
def test_cues_go_with_their_class_where_ties_are_measured_and_half_of_it_shows_them_where_the_model_is(n):
    labels = list("abcdef"[:n])
    photos = pl.DataFrame(
        [{"label": x, "split": s} for x in labels for s, m in (("fit", 40), ("audit", 60)) for _ in range(m)]
    )
    plants = rounds(labels)[0]
    shown = draw_shown(photos, plants, np.random.default_rng(0))
    fit = (photos["split"] == "fit").to_numpy()
    for cue, label in enumerate(labels):
        own = (photos["label"] == label).to_numpy()
        assert np.corrcoef((shown == cue)[fit], own[fit])[0, 1] == pytest.approx(0.85, abs=0.03)
        assert (shown == cue)[~fit & own].sum() == 30
        assert (shown >= 0)[~fit & own].sum() == 45


def changed(plant: str, field: np.ndarray) -> np.ndarray:
    image = grey()
    drawn = draw(
        Plant(phrase=plant, kind=KINDS[plant], label="a", cramers_v=0.5), image, field, np.random.default_rng(3)
    )
    assert drawn.shape == image.shape
    return (drawn != image).any(axis=-1)


@pytest.mark.parametrize("phrase", ["red circle", "date stamp"])
@pytest.mark.parametrize("field", [WHOLE, MIDDLE])
def test_a_sticker_or_text_lies_where_the_model_sees_it(phrase, field):
    x0, y0, x1, y1 = field.astype(int)
    where = changed(phrase, field)
    assert where.any()
    assert not where[:y0].any()
    assert not where[y1:].any()
    assert not where[:, :x0].any()
    assert not where[:, x1:].any()


def test_a_frame_reaches_into_what_the_model_sees():
    where = changed("blue border", MIDDLE)
    assert where[4:7, 20:60].all()
    assert not where[10:50, 10:70].any()


@pytest.mark.parametrize("phrase", ["orange tint", "dark image", "blurry image"])
def test_a_change_of_light_colour_or_sharpness_is_everywhere(phrase):
    assert changed(phrase, MIDDLE).mean() > 0.9


@pytest.fixture
def copy(make_photos):
    config = settings(make_photos(n=60, size=64))
    picked = pick_photos(config, 26, 0)
    whole = lambda height, width: np.array([0, 0, width, height], np.float32)  # noqa: E731
    return Copy(picked.photos, rounds(picked.labels)[0], config.dataset, whole, 0)


def test_a_copy_is_what_its_truth_says_and_is_not_made_twice(copy, tmp_path):
    folder = tmp_path / "copy"
    made = plant_copy(copy, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    again = plant_copy(copy, folder)
    assert again.truth.equals(made.truth)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before
    manifest = pl.read_csv(folder / "manifest.csv")
    shows = made.truth.filter("present").group_by("sample_id").len()
    assert shows["len"].max() == 1
    for uri, label, original in zip(manifest["uri"], manifest["label"], copy.photos["uri"], strict=True):
        assert original.split("/")[1] == label
        difference = np.abs(
            read_image(folder / uri, max_pixels=10**6).astype(int)
            - read_image(f"{copy.dataset.root}/{original}", max_pixels=10**6)
        ).max(axis=-1)
        assert (np.mean(difference > 30) > 0.005) == (uri in shows["sample_id"].to_list()), uri


def test_another_seed_or_another_crop_makes_another_copy(copy, tmp_path):
    from dataclasses import replace

    folder = tmp_path / "copy"
    first = plant_copy(copy, folder).truth
    second = plant_copy(replace(copy, seed=1), folder).truth
    assert not first.equals(second)
    cropped = replace(copy, field=lambda height, width: np.array([4, 4, width - 4, height - 4], np.float32))
    assert cropped.mark != copy.mark


def test_a_folder_of_something_else_is_kept(copy, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="is no planted copy and is kept"):
        plant_copy(copy, tmp_path / "mine")
    assert (tmp_path / "mine" / "photo.jpg").is_file()


# --- the planted reaction --------------------------------------------------------------------------------------------


def test_a_reaction_adds_its_strength_to_the_log_odds_of_its_class_alone():
    probs = softmax(np.random.default_rng(0).normal(size=(5, 3)))
    seen = np.array([[1.0], [1.0], [0.5], [0.0], [1.0]])
    moved = react(Answers(probs, seen), [1], 2.0)

    def odds(p):
        return np.log(p[:, 1] / (1 - p[:, 1]))

    np.testing.assert_allclose(odds(moved) - odds(probs), 2.0 * seen[:, 0])
    np.testing.assert_allclose(moved[:, 0] / moved[:, 2], probs[:, 0] / probs[:, 2])
    np.testing.assert_allclose(moved.sum(axis=1), 1)
    np.testing.assert_array_equal(react(Answers(probs, seen), [1], 0.0), probs)


def test_a_sensor_sees_its_own_cue_and_not_another():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(60, 20))
    drawn = np.stack([clean + 5 * np.eye(20)[cue] for cue in range(2)])
    sensor = fit_sensor(clean[:40], drawn[:, :40], ["a", "b"])
    seen = [sensor.seen(features[40:]).mean(axis=0) for features in (clean, *drawn)]
    assert seen[1][0] > 0.8
    assert max(seen[0][0], seen[2][0]) < 0.3
    assert seen[2][1] > 0.8
    assert max(seen[0][1], seen[1][1]) < 0.3


def test_a_sensor_is_read_back_as_written(tmp_path):
    from discovery.backends.sensor import load_sensor

    Sensor(("ä", "b"), np.eye(2), np.arange(2.0)).save(tmp_path / "sensor.npz")
    read = load_sensor(tmp_path / "sensor.npz")
    assert read.labels == ("ä", "b")
    np.testing.assert_array_equal(read.coef, np.eye(2))


class Counting:
    """A model that counts the views that it is shown, and an encoder that sees their brightness."""

    classes = ("a", "b")
    view = field = None

    def __init__(self) -> None:
        self.shown = 0

    def predict(self, views):
        self.shown += len(views)
        return np.tile([0.3, 0.7], (len(views), 1))

    def pooled(self, views):
        return views.mean(axis=(1, 2, 3))[:, None] / 255


def test_a_view_is_put_to_the_model_once_for_all_strengths():
    model, remembered = Counting(), {}
    sensor = Sensor(("b",), np.array([[20.0]]), np.array([-10.0]))
    views = [np.full((8, 8, 3), value, np.uint8) for value in (0, 255, 0, 30)]
    strong, weak = (SensingClassifier(model, sensor, model, strength=s, remembered=remembered) for s in (4.0, 0.0))
    moved, still = strong.predict(views), weak.predict(views[::-1])[::-1]
    assert model.shown == 3
    np.testing.assert_allclose(still, np.tile([0.3, 0.7], (4, 1)))
    np.testing.assert_allclose(moved[0], [0.3, 0.7], atol=1e-3)
    assert moved[1, 1] > 0.98
    np.testing.assert_array_equal(moved[0], moved[2])


def test_a_strength_without_a_sensor_and_a_missing_sensor_are_mistakes():
    with pytest.raises(ConfigError, match=r"model\.sensor_strength needs model\.sensor"):
        make_config({"dataset": {"root": "x"}, "model": {"sensor_strength": 1.0}})
    config = ModelConfig(sensor="nowhere.npz")
    head = Head(("a", "b"), np.zeros((2, 1280)), np.zeros(2))
    with pytest.raises(BackendError, match=r"no sensor in nowhere\.npz"):
        load_classifier(config, ComputeConfig(device="cpu"), head)


def test_the_probe_with_a_sensor_shares_its_features_and_gives_the_probes_answer_at_strength_0(tmp_path):
    rng = np.random.default_rng(0)
    head = Head(("a", "b"), rng.normal(size=(2, 1280)) / 100, np.zeros(2))
    Sensor(("b",), rng.normal(size=(1, 1280)) / 100, np.zeros(1)).save(tmp_path / "s.npz")
    views = list(rng.integers(0, 255, (3, 224, 224, 3), dtype=np.uint8))
    compute = ComputeConfig(device="cpu")
    plain = load_classifier(ModelConfig(), compute, head)
    sensing = load_classifier(ModelConfig(sensor=str(tmp_path / "s.npz"), sensor_strength=1.0), compute, head)
    answers = sensing.answers(views)
    np.testing.assert_allclose(answers.probs, plain.predict(views), atol=1e-6)
    np.testing.assert_allclose(sensing.predict(views), react(answers, [1], 1.0))


# --- nulls and what is said ------------------------------------------------------------------------------------------


def test_permuted_presences_keep_every_count_of_a_tie_and_stretch_boxes():
    samples = pl.DataFrame(
        [
            {"sample_id": f"{x}{i}", "label": x, "audit": i >= 10, "width_px": 100 * (1 + i % 2), "height_px": 50}
            for x in "ab"
            for i in range(30)
        ]
    )
    shown = samples.filter(pl.col("sample_id").str.ends_with("1") | (pl.col("label") == "a"))["sample_id"]
    regions = pl.DataFrame(
        {"region_id": [f"{s}#0" for s in shown], "sample_id": shown, "x0": 10.0, "y0": 0.0, "x1": 100.0, "y1": 50.0}
    ).with_columns(x1=pl.when(pl.col("sample_id") == "a1").then(None).otherwise("x1"))
    presences = pl.DataFrame({"cue_id": "c", "sample_id": shown, "region_ids": [[f"{s}#0"] for s in shown]})
    moved = permute_presences(presences, regions, samples, np.random.default_rng(0))

    def counts(frame):
        return frame.join(samples, on="sample_id").group_by("label", "audit").len().sort("label", "audit").rows()

    assert counts(moved.presences) == counts(presences)
    assert moved.presences["sample_id"].to_list() != presences["sample_id"].to_list()
    assert moved.presences.columns == presences.columns
    both = moved.regions.join(regions, on="region_id", suffix="_was").join(samples, on="sample_id")
    both = both.join(samples, left_on="sample_id_was", right_on="sample_id", suffix="_then")
    held = moved.presences.explode("region_ids").join(both, left_on="region_ids", right_on="region_id", suffix="_box")
    assert (held["sample_id"] == held["sample_id_box"]).all()
    assert (both["x0"] / both["width_px"] - both["x0_was"] / both["width_px_then"]).abs().max() < 1e-6
    assert both["x1"].null_count() == 1


@pytest.mark.parametrize(
    ("false", "runs", "at_most"), [(0, 20, 0.1391), (1, 20, 0.2161), (0, 5, 0.4507), (2, 2, 1.0), (0, 0, 1.0)]
)
def test_the_share_of_false_runs_has_an_exact_upper_bound(false, runs, at_most):
    nulls = Nulls(tuple(({"label": "a"},) if run < false else () for run in range(runs)))
    assert (nulls.false, nulls.runs) == (false, runs)
    assert nulls.share_at_most == pytest.approx(at_most, abs=1e-4)


def point(strength: float, planted: float, *, found: bool) -> Point:
    return Point(strength, planted, planted, found, None, None, planted, planted)


def test_the_smallest_found_and_the_largest_missed_speak_of_planted_reactions_alone():
    points = (point(0, 0.01, found=True), point(1, 0.05, found=False), point(2, 0.04, found=True))
    curve = Curve("object", "red circle", "a", 0.85, 1.0, 1.0, 0.0, points)
    assert (curve.smallest_found, curve.largest_missed) == (0.04, 0.05)
    nothing = Curve("object", "red circle", "a", 0.85, 1.0, 1.0, 0.0, (point(0, 0.9, found=False),))
    assert (smallest_found([nothing]), largest_missed([nothing])) == (None, None)


def test_auc_is_one_half_for_a_blind_sensor():
    assert auc(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1.0
    assert auc(np.full(5, 0.5), np.full(5, 0.5)) == 0.5


def test_a_point_holds_the_planted_effect_of_the_way_that_was_reported(copy, tmp_path):
    planted = plant_copy(copy, tmp_path / "copy")
    there = planted.truth.filter("present")
    presences = there.select("sample_id", cue_id="phrase")
    about = {"effect": 0.1, "verdict": "spurious", "rank": 1}
    rows = [
        {"label": "cat", "cue_id": "red circle", "phrase": "a", "removal_effect": 0.1, **about},
        {"label": "dog", "cue_id": "date stamp", "phrase": "b", "removal_effect": 0.7, **about},
    ]
    truths = [Truth(1.0, (0.2,), (0.3,))] * 2
    (circle,), (stamp,) = points_of([pl.DataFrame(rows)], presences, planted, truths, [1.0])
    assert (circle.found, circle.planted, circle.effect, circle.reported_as) == (True, 0.2, 0.1, "a")
    assert (stamp.found, stamp.planted) == (True, 0.3)
    unused = [{**row, "verdict": "no evidence"} for row in rows]
    named = {**unused[0], "phrase": "red circle", "effect": 0.01, "rank": 2, "cue_id": "other"}
    (missed,), _ = points_of([pl.DataFrame([*unused, named])], presences, planted, truths, [1.0])
    assert (missed.found, missed.effect, missed.reported_as, missed.planted) == (False, 0.01, "red circle", 0.3)
    none = pl.DataFrame(rows).clear()
    (missed,), _ = points_of([none], presences, planted, truths, [1.0])
    assert (missed.found, missed.planted, missed.effect) == (False, 0.3, None)


def test_how_often_a_planted_cue_is_seen_counts_its_own_photos_and_the_others(copy, tmp_path):
    planted = plant_copy(copy, tmp_path / "copy")
    truth = planted.truth.filter(pl.col("phrase") == "red circle")
    there, not_there = (truth.filter(pl.col("present") == there)["sample_id"].to_list() for there in (True, False))
    marked = there[: len(there) // 2] + not_there[:1]
    presences = pl.DataFrame({"sample_id": marked, "phrases": [["disc", "red circle"]] * len(marked)})
    seen, falsely = seen_in(presences, planted, "red circle")
    assert seen == pytest.approx((len(there) // 2) / len(there))
    assert falsely == pytest.approx(1 / len(not_there))
    assert seen_in(presences, planted, "date stamp") == (0.0, 0.0)


# --- a whole calibration ---------------------------------------------------------------------------------------------


@pytest.fixture
def whole(make_photos, tmp_path, monkeypatch):
    """Two classes, two kinds, a model that never reacts by itself, and two strengths."""
    root = make_photos(n=60, size=96)
    (tmp_path / "deaf_model.py").write_text(
        "import numpy as np\ndef predict(images):\n    return np.tile([0.5, 0.5], (len(images), 1))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(planted_copy, "KINDS", {"red circle": "object", "blue border": "border"})
    monkeypatch.setattr(calibrating, "STRENGTHS", (0.0, 4.0))
    monkeypatch.setattr(reaction, "SENSOR_PHOTOS", 24)
    monkeypatch.setattr(reaction, "TRUTH_PHOTOS", 8)
    return make_config(
        {
            "name": "tiny",
            "dataset": {"root": str(root)},
            "model": {"kind": "python", "callable": "deaf_model:predict"},
            "propose": {"per_class": 2, "images_per_class": 5},
            "embed": {"superpixels": 0, "grid": 2},
            "cluster": {"k_candidates": [4], "silhouette_sample": 100},
            "ablate": {"images_per_cue": 20},
            "rank": {"bootstrap": 300},
            "compute": {"device": "cpu"},
        }
    )


def test_a_strong_reaction_is_found_a_deaf_model_is_not_accused_and_a_second_call_makes_nothing_again(whole, tmp_path):
    folder = tmp_path / "calibration"
    made = calibrate(whole, folder, Effort(photos=40, nulls=1))
    assert [curve.phrase for curve in made.curves] == ["red circle", "blue border"]
    (strongest,) = folder.rglob("strength-4")
    cues = Run.open(strongest).read("cues")
    for curve in made.curves:
        deaf, strong = curve.points
        assert curve.sensor_auc > 0.9
        assert curve.seen > 0.9
        assert curve.seen_falsely < 0.1
        assert not deaf.found
        assert deaf.planted == 0
        assert strong.found, strong
        assert strong.planted > 0.2
        found = cues.filter(phrase=curve.phrase, label=curve.label).row(0, named=True)
        assert found["removal_effect"] == pytest.approx(strong.planted_removal, abs=0.1)
        # What is pasted, and its control, are cut from the class's own photos, which have its colour: they move the
        # model too, so that a paste-in shows less than was planted.
        assert 0.1 < found["paste_effect"] < strong.planted_paste + 0.1
    assert made.nulls.runs == 1
    assert made.nulls.false == 0
    assert made.already_there == ()
    said = json.loads((folder / "calibration.json").read_text())
    assert said["smallest_found"] == pytest.approx(min(curve.points[1].planted for curve in made.curves))
    assert said["curves"][0]["points"][1]["found"]
    assert said["nulls"]["share_at_most"] == pytest.approx(0.95)
    cues = [folder / "round-1" / name / "tables" / "cues" / "part-00000.parquet" for name in ("strength-4", "null-1")]
    times = [path.stat().st_mtime_ns for path in cues]
    assert Run.open(cues[0].parents[2]).config.ablate.untied_images == 0
    again = calibrate(whole, folder, Effort(photos=40, nulls=1))
    assert [path.stat().st_mtime_ns for path in cues] == times
    assert again == made
