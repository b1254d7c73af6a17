"""A background that fills its photos, pasted: into whom, against what, and at what cost."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from discovery import ablate
from discovery.ablate import STAGE
from discovery.config import make_config
from discovery.run import Run, frame_of
from discovery.use import measure_use

CLASSES = ("climbing", "diving", "racing")
SIDE, N = 64, 40
MIDDLE = slice(20, 44)
OBJECT = {"climbing": 60, "diving": 120, "racing": 220}
CLIFFS = {"climbing": 28, "diving": 10, "racing": 28}
"""Of 40 photos of a class, those before a cliff: it goes with climbing and with racing."""
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def predict(images) -> np.ndarray:
    """Reads climbing off the cliff's colour, wherever it is, and racing off the object alone."""
    rows = []
    for image in images:
        view = image.astype(float)
        cliff = ((view[..., 0] - view[..., 2]) > 60).mean()
        bright = (view[MIDDLE, MIDDLE].mean(axis=2) > 180).mean()
        rows.append([6 * cliff, 1.0, 5 * bright])
    scores = np.exp(rows)
    return scores / scores.sum(axis=1, keepdims=True)


def draw(label: str, cliff: bool, rng: np.random.Generator) -> np.ndarray:
    ground = (190, 120, 50) if cliff else (rng.integers(40, 90), rng.integers(80, 160), rng.integers(100, 200))
    image = np.array(ground) + rng.normal(0, 6, (SIDE, SIDE, 3))
    image[MIDDLE, MIDDLE] = OBJECT[label] + rng.normal(0, 6, (24, 24, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("cliffs")
    run = _run(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate, "_siblings", lambda _: {})
        for part in range(STAGE.rounds(run.config)):
            run.write("effects", STAGE.work(run, part), shard=part, fingerprint="made")
    return run.read("effects")


def _run(folder: Path, corners: tuple = CORNERS) -> Run:
    rng, samples, predictions, presences, regions = np.random.default_rng(0), [], [], [], []
    for place in rng.permutation(N * len(CLASSES)).tolist():
        label, number = CLASSES[place // N], place % N
        name, cliff = f"{label}{number:02d}", number < CLIFFS[label]
        image = draw(label, cliff, rng)
        Image.fromarray(image).save(folder / f"{name}.png")
        size = {"width_px": SIDE, "height_px": SIDE}
        samples.append(
            {"sample_id": name, "uri": f"{name}.png", "label": label, "split": "test", "audit": True, **size}
        )
        probs = predict([image])[0]
        predictions.append({"sample_id": name, "predicted": CLASSES[probs.argmax()], "probs": probs.tolist()})
        if cliff:
            ids = [f"{name}-{corner}" for corner in range(len(corners))]
            named = {"cue_id": "cliff", "phrase": "cliff", "kind": "background", "source": "attribute", "score": 1.0}
            presences.append({"sample_id": name, "labels": [], "phrases": ["cliff"], "region_ids": ids, **named})
            regions += [_quarter(region, name, corner) for region, corner in zip(ids, corners, strict=True)]
    settings = {"model": {"kind": "python", "callable": "test_ablate:predict", "classes": CLASSES}}
    run = Run.create(
        folder / "run", make_config({"dataset": {"root": str(folder)}, "ablate": {"looks": 1}, **settings})
    )
    tables = {"samples": samples, "predictions": predictions, "presences": presences, "regions": regions}
    tables |= {"heads": [{"class_name": name} for name in CLASSES], "associations": [_tied(name) for name in CLASSES]}
    for table, rows in tables.items():
        run.write(table, frame_of(table, rows), shard=0, fingerprint="given")
    return run


def _quarter(region_id: str, sample_id: str, corner: tuple[int, int]) -> dict:
    top, left = (32.0 * side for side in corner)
    box = {"x0": left, "y0": top, "x1": left + 32, "y1": top + 32}
    return {"region_id": region_id, "sample_id": sample_id, "detector": "conse", "score": 0.5, **box}


def _tied(label: str) -> dict:
    named = {"label": label, "cue_id": "cliff", "phrase": "cliff", "kind": "background", "source": "attribute"}
    return {**named, "n_audit_with": CLIFFS[label], "bias_p": 1e-6, "cramers_v": 0.5}


def paste_of(effects: pl.DataFrame, label: str):
    rows = effects.filter(label=label, cue_id="cliff")
    return measure_use(rows, make_config({"dataset": {"root": "."}}).rank, np.random.default_rng(0)).paste


def test_a_background_is_held_against_the_same_place_of_a_photo_without_it(effects):
    assert set(effects.filter(way="paste")["intervention"]) == {"paste-donor"}


def test_a_pasted_background_moves_the_class_that_the_model_reads_off_it(effects):
    found = paste_of(effects, "climbing")
    assert found.effect.low > 0.05
    assert found.p < 1e-4


def test_a_pasted_background_does_nothing_for_a_class_that_it_goes_with_and_that_is_read_off_the_object(effects):
    """The patches hold a part of the racing car: only a control of the same class holds as much of it."""
    found = paste_of(effects, "racing")
    assert found.n >= 8
    assert found.effect.high < 0.02, "a cliff speaks for climbing, so at most against racing"


def test_one_pass_is_made_and_counted_once_for_all_classes(effects):
    pasted = effects.filter(way="paste")
    passes = pasted.select("cue_id", "sample_id", "source_id").n_unique()
    assert pasted["n_forwards"].sum() == 2 * passes
    assert len(pasted) > 1.5 * passes
