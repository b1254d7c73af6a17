"""Where a model sees the class once a cue is gone: on the object, if it has learned that, and not on the cue."""

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from discovery import ablate
from discovery.attribution import check_mapped, class_region, overlap_without
from discovery.backends.classifier import load_classifier
from discovery.backends.roles import Head, softmax
from discovery.config import make_config
from discovery.errors import ConfigError
from discovery.fills import FILLS
from discovery.images import read_image
from discovery.run import Run, frame_of


class Colours:
    """Sees red and yellow in cells of 8 pixels; reads its first class off both."""

    classes = ("horse", "other")

    def predict(self, views): ...
    def view(self, image): ...
    def field(self, height, width): ...
    def features(self, views): ...

    def linear(self) -> Head:
        return Head(self.classes, np.array([[1.0, 3.0], [0.0, 0.0]]), np.zeros(2))

    def dense(self, views: np.ndarray) -> np.ndarray:
        red = (views[..., 0] > 200) & (views[..., 1] < 100)
        yellow = (views[..., 0] > 200) & (views[..., 1] > 200) & (views[..., 2] < 100)
        cells = [seen.reshape(len(views), 8, 8, 8, 8).mean(axis=(2, 4)) for seen in (red, yellow)]
        return np.stack(cells, axis=1).astype(np.float32)


N, SIDE, LABELS = 10, 224, ("beside", "on")
HORSE, SADDLE, SIGN = (slice(8, 40), slice(8, 40)), (slice(16, 32), slice(16, 32)), (slice(48, 64), slice(48, 64))


def scene(cue) -> tuple[np.ndarray, np.ndarray]:
    view, mask = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), bool)
    view[HORSE] = (230, 20, 20)
    view[cue] = (240, 230, 30)
    mask[cue] = True
    return view, mask


def test_a_shortcut_is_not_the_object_once_it_is_gone_and_a_part_still_is():
    found = {}
    for name, cue in (("saddle", SADDLE), ("sign", SIGN)):
        view, mask = scene(cue)
        activation = np.tensordot([1.0, 3.0], Colours().dense(view[None])[0], 1)
        assert class_region(activation, (64, 64), 0.6)[mask].mean() > 0.6, "in view either is where the map is"
        found[name] = overlap_without(Colours(), 0, FILLS["blur"](view, mask), mask, 0.6)
    assert found["saddle"] > 0.9
    assert found["sign"] < 0.05


def test_the_region_of_a_map_grows_as_its_level_falls():
    activation = np.add.outer(np.arange(7.0), np.arange(7.0))
    areas = [class_region(activation, (56, 28), level).mean() for level in (0.0, 0.5, 0.9, 1.0)]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] == 1.0
    assert 0 < areas[-1] < 0.1
    assert class_region(activation, (56, 28), 0.9).shape == (56, 28)


def test_a_model_without_maps_is_refused():
    check_mapped(Colours())
    with pytest.raises(ConfigError, match=r"ablate.object = 'attribution' wants .* got a object; set it to 'detected'"):
        check_mapped(object())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Photos of a red and a white thing, each with a disc of its own, on the thing or beside it; and their probe."""
    folder, rng = tmp_path_factory.mktemp("things"), np.random.default_rng(0)
    tables = {name: [] for name in ("samples", "presences", "regions")}
    for number in range(2 * N):
        label = LABELS[number % 2]
        image, box = _photo(label, rng)
        Image.fromarray(image).save(folder / f"{number}.png")
        known = {"sample_id": f"s{number}", "uri": f"{number}.png", "label": label, "split": "test", "audit": True}
        tables["samples"].append(known | {"width_px": SIDE, "height_px": SIDE})
        shown = {"cue_id": label, "sample_id": f"s{number}", "phrase": label, "kind": "object", "score": 1.0}
        tables["presences"].append(shown | {"source": "attribute", "labels": [], "region_ids": [f"r{number}"]})
        edges = dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True))
        region = {"region_id": f"r{number}", "sample_id": f"s{number}", "detector": "appearance", "score": 1.0}
        tables["regions"].append(region | edges)
    values = {"dataset": {"root": str(folder)}, "ablate": {"looks": 1, "paste": False, "object": "attribution"}}
    run = Run.create(folder / "run", make_config({**values, "compute": {"device": "cpu", "threads": 1}}))
    tables |= _probe(run, [row["label"] for row in tables["samples"]])
    for name, rows in tables.items():
        run.write(name, frame_of(name, rows), shard=0, fingerprint="given")
    _tie(run, "object")
    return run


def _photo(label: str, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    image = rng.normal(100, 12, (SIDE, SIDE, 3))
    x, y = rng.integers(20, 50, 2).tolist()
    cv2.rectangle(image, (x, y), (x + 110, y + 90), (200, 30, 30) if label == "on" else (235, 235, 235), -1)
    disc = (x + 55, y + 45) if label == "on" else (SIDE - 28, SIDE - 28)
    cv2.circle(image, disc, 18, (245, 220, 20) if label == "on" else (20, 180, 60), -1)
    return np.clip(image, 0, 255).astype(np.uint8), (disc[0] - 18, disc[1] - 18, disc[0] + 19, disc[1] + 19)


def _probe(run: Run, labels: list[str]) -> dict:
    blank = Head(LABELS, np.zeros((2, 1280)), np.zeros(2))
    probe = load_classifier(run.config.model, run.config.compute, blank)
    files = [Path(run.config.dataset.root) / f"{number}.png" for number in range(2 * N)]
    features = probe.features([probe.view(read_image(file, max_pixels=10**6)) for file in files])
    fitted = LogisticRegression(C=0.01, max_iter=500).fit(features, np.array(labels) == LABELS[1])
    coef, intercept = np.stack([-fitted.coef_[0], fitted.coef_[0]]) / 2, np.array([-1, 1]) * fitted.intercept_ / 2
    probs = softmax(features @ coef.T + intercept)
    return {
        "heads": [
            {"class_name": name, "coef": row.tolist(), "intercept": float(at)}
            for name, row, at in zip(LABELS, coef, intercept, strict=True)
        ],
        "predictions": [
            {"sample_id": f"s{number}", "predicted": labels[number], "probs": row.tolist()}
            for number, row in enumerate(probs)
        ],
    }


def _tie(run: Run, kind: str) -> None:
    named = [{"label": name, "cue_id": name, "phrase": name, "source": "attribute", "kind": kind} for name in LABELS]
    rows = [row | {"n_audit_with": N, "bias_p": 1e-6, "cramers_v": 1.0} for row in named]
    run.write("associations", frame_of("associations", rows), shard=0, fingerprint=kind)


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(ablate, "_siblings", lambda _: {})


def test_a_probe_tells_a_disc_on_the_thing_from_one_beside_it(run, alone):
    effects = ablate.STAGE.work(run, 0)
    assert set(effects["object_source"]) == {"attribution"}
    overlap = dict(effects.group_by("label").agg(pl.col("object_overlap").mean()).iter_rows())
    assert overlap["on"] > 0.5
    assert overlap["beside"] < 0.2


def test_a_map_never_makes_the_object_of_what_is_no_thing(run, alone):
    _tie(run, "background")
    effects = ablate.STAGE.work(run, 0)
    assert len(effects)
    assert effects["object_overlap"].null_count() == effects["object_source"].null_count() == len(effects)
