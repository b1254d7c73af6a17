"""Stages on tables and tiny photos: fit, predict, detect, embed, cluster, ablate, and the corridor as a whole."""

import csv
import json
import sys

import numpy as np
import polars as pl
import pytest

from discovery import discover
from discovery.backends.detector import Phrase
from discovery.cluster import cluster
from discovery.config import ClusterConfig, ModelConfig, make_config
from discovery.corridor import CORRIDOR, STAGES, corridor, plan
from discovery.detect import area_fracs, detect, route
from discovery.errors import ConfigError, DataError
from discovery.fit import check_labels, fit_probe
from discovery.predict import predict
from discovery.proposals import propose_regions
from discovery.regions import Regions, decode_rle


class Sees:
    """A detector that sees some kinds and finds each phrase once per image."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def sees(self, phrase):
        return phrase.kind in self.kinds

    def detect(self, images, phrases):
        return Regions.build([(i, p, [0, 0, 5, 5], 1.0, None) for i in range(len(images)) for p in range(len(phrases))])


class Mean:
    """A model whose probability of the first class is the view's mean brightness."""

    classes = ("bright", "dark")

    def __init__(self) -> None:
        self.batches = []

    def predict(self, views):
        self.batches.append(len(views))
        p = np.array([view.mean() / 255 for view in views])
        return np.stack([p, 1 - p], axis=1)


def flat(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def test_a_phrase_goes_to_the_first_detector_that_sees_it():
    phrases = [Phrase("a", "object"), Phrase("b", "text"), Phrase("c", "lighting")]
    assert route(phrases, {"one": Sees("text"), "two": Sees("text", "object")}) == {"one": [1], "two": [0]}


def test_found_regions_keep_the_number_of_their_phrase():
    phrases = [Phrase("a", "object"), Phrase("b", "text"), Phrase("c", "object")]
    found = detect([flat(0), flat(1)], phrases, {"text": Sees("text"), "box": Sees("object")})
    assert found["text"].phrase.tolist() == [1, 1]
    assert found["box"].phrase.tolist() == [0, 2, 0, 2]


def test_area_is_a_share_of_the_image():
    found = Regions.build([(0, 0, [0, 0, 4, 8], 1.0, None), (0, 0, None, 1.0, None)])
    np.testing.assert_allclose(area_fracs(found, [flat(0)]), [0.5, 1.0])


def test_windows_and_superpixels_cover_every_image():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (60, 90, 3), dtype=np.uint8), flat(9)[:1, :1]]
    found = propose_regions(images, grid=3, superpixels=12)
    first = found.image == 0
    masks = [decode_rle(rle) for rle, mine in zip(found.mask_rle, first, strict=True) if mine and rle]
    assert 6 <= len(masks) <= 20
    assert np.sum(masks, axis=0).min() == np.sum(masks, axis=0).max() == 1
    assert (found.xyxy[first][:, 2].max(), found.xyxy[first][:, 3].max()) == (90, 60)
    assert (found.image == 1).sum() == 9  # one pixel: windows alone


def test_a_probe_learns_what_is_separable_and_keeps_class_order():
    rng = np.random.default_rng(0)
    labels = np.array(["b", "a", "c"] * 30)
    features = rng.normal(size=(90, 8)) + 6 * np.eye(3, 8)[["abc".index(label) for label in labels]]
    head = fit_probe(features, labels, ModelConfig(inverse_regularisation=1.0))
    assert head.classes == ("a", "b", "c")
    best = (features @ head.coef.T + head.intercept).argmax(axis=1)
    assert (np.array(head.classes)[best] == labels).mean() > 0.95


def test_a_probe_of_two_classes_has_two_rows():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 20)
    features = rng.normal(size=(40, 4)) + 5 * (labels == "b")[:, None]
    head = fit_probe(features, labels, ModelConfig())
    assert head.coef.shape == (2, 4)
    assert ((features @ head.coef.T + head.intercept).argmax(axis=1) == (labels == "b")).all()


def test_labels_that_the_model_does_not_know_are_named():
    with pytest.raises(DataError, match=r"1 of the labels: yak.*model\.classes"):
        check_labels({"cat", "yak"}, ("cat", "dog"))


def test_prediction_keeps_order_whatever_the_batch():
    views = [flat(v) for v in range(0, 250, 10)]
    model = Mean()
    probs = predict(iter(views), model, 4)
    np.testing.assert_allclose(probs[:, 0], [v / 255 for v in range(0, 250, 10)])
    assert max(model.batches) == 4
    assert predict(iter([]), model, 4).shape == (0, 2)


def test_clusters_are_found_and_the_seed_decides():
    rng = np.random.default_rng(0)
    centres = np.eye(5, 16)
    rows = centres[np.repeat(np.arange(5), 40)] + 0.05 * rng.normal(size=(200, 16))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    config = ClusterConfig(k_candidates=(2, 5, 12), silhouette_sample=150)
    one, two = cluster(unit, config, 3), cluster(unit, config, 3)
    assert len(one.centroids) == 5
    np.testing.assert_array_equal(one.centroids, two.centroids)
    ids, distance = one.assign(unit)
    assert all(len(set(ids[i * 40 : i * 40 + 40])) == 1 for i in range(5))
    assert distance.max() < 0.2


@pytest.mark.parametrize("n", [1, 7])
def test_few_regions_are_one_cluster(n):
    found = cluster(np.eye(n, 8, dtype=np.float32), ClusterConfig(), 0)
    assert found.assign(np.eye(n, 8, dtype=np.float32))[0].tolist() == [0] * n


# --- the corridor as a whole, with a user's own function as the model -------------------------------------------------


@pytest.fixture
def config(make_photos, tmp_path, monkeypatch):
    root = make_photos(("red", "blue"), 30, 64, splits=("train", "test"))
    (tmp_path / "colour_model.py").write_text(
        "import numpy as np\n"
        "def predict(images):\n"
        "    d = np.array([im[..., 0].mean() - im[..., 2].mean() for im in images]) / 30\n"
        "    p = 1 / (1 + np.exp(-d))\n"
        "    return np.stack([1 - p, p], axis=1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.txt").write_text("cliff\nred circle\na phrase nobody shows\n")
    yield {
        "dataset": {"root": str(root)},
        "model": {"kind": "python", "callable": "colour_model:predict"},
        "propose": {"proposer": "file", "file": str(tmp_path / "mine.txt")},
        "embed": {"superpixels": 4},
        "cluster": {"k_candidates": [4], "silhouette_sample": 200},
        "compute": {"device": "cpu", "shard_size": 50},
    }
    sys.modules.pop("colour_model", None)


def test_a_run_ends_in_a_report_and_a_second_one_does_nothing(config, tmp_path):
    made = []
    run = discover(make_config(config), tmp_path / "run", progress=lambda *seen: made.append(seen))
    assert {name for name, _, total in made if total} == set(STAGES)
    for name in ("report.html", "cues.json", "cues.csv", "groups.parquet", "metadata.csv", "skipped.csv"):
        assert (run.path / name).is_file(), name
    found = json.loads((run.path / "cues.json").read_text())
    assert found["schema_version"] == 1
    assert {"label", "phrase", "kind", "rank", "verdict", "effect"} <= set(found["cues"][0])
    again = []
    discover(make_config(config), tmp_path / "run", progress=lambda *seen: again.append(seen))
    assert all(total == 0 for _, _, total in again)

    stricter = []
    config = config | {"rank": {"level": 0.01}}
    discover(make_config(config), tmp_path / "run", progress=lambda *seen: stricter.append(seen))
    assert {name for name, _, total in stricter if total} == {"rank", "report", "export"}
    (run.path / "report.html").unlink()
    run.config = make_config(config)
    assert [stage.name for stage in CORRIDOR if plan(run, stage)] == ["report"]


def test_the_same_run_gives_the_same_cues(config, tmp_path):
    one, two = (discover(make_config(config), tmp_path / name, until="rank").read("cues") for name in ("a", "b"))
    assert one.equals(two)


def test_a_run_that_breaks_keeps_what_is_finished_and_goes_on(config, tmp_path, monkeypatch):
    from discovery import embed

    def broken(*_):
        raise DataError("the disk is full")

    settings = make_config(config)
    monkeypatch.setattr(embed, "load_encoder", broken)
    with pytest.raises(DataError, match="disk is full"):
        discover(settings, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []
    discover(settings, tmp_path / "run", until="embed", progress=lambda *seen: made.append(seen))
    assert {name for name, _, total in made if total} == {"embed"}


def test_a_users_phrase_that_no_photo_shows_is_not_enough_data(config, tmp_path):
    cues = discover(make_config(config), tmp_path / "run", until="rank").read("cues")
    unseen = cues.filter(pl.col("phrase") == "red circle")
    assert set(unseen["verdict"]) <= {"not enough data", "no evidence", "tied, not used", "gap, not used"}
    assert len(cues) > 0


def test_bad_photos_are_listed_and_the_rest_is_audited(config, tmp_path, make_photos):
    root = tmp_path / "photos"
    (root / "train" / "red" / 'torn, "quoted".jpg').write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    run = discover(
        make_config(config | {"dataset": {"root": str(root), "max_bad_frac": 0.05}}), tmp_path / "run", until="predict"
    )
    listed = list(csv.DictReader((run.path / "skipped.csv").read_text().splitlines()))
    assert [row["uri"] for row in listed] == ['train/red/torn, "quoted".jpg']
    assert len(run.read("predictions")) == 120


def test_until_an_unknown_stage_names_the_known_ones():
    with pytest.raises(ConfigError, match="choose from ingest, fit"):
        corridor("rnak")
