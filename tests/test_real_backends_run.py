"""The corridor from end to end on checkpoints as users have them, tiny and with random weights: no packaged model."""

import json
import os

import numpy as np
import polars as pl
import pytest
from PIL import Image
from tiny_checkpoints import save_clip, save_dinov2, save_owlv2

from discovery import discover
from discovery.backends.encoder import ENCODERS, load_encoder
from discovery.backends.text import TEXTS, load_text
from discovery.config import make_config
from discovery.corridor import STAGES, plan

SIDE_PX = 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        name: save(root / name) for name, save in (("clip", save_clip), ("owlv2", save_owlv2), ("dinov2", save_dinov2))
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise in two classes; nine in ten of the first carry a red square, and one in ten of the second."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, share in (("cat", 0.9), ("dog", 0.1)):
        (root / "test" / label).mkdir(parents=True)
        for i in range(14):
            pixels = rng.integers(60, 200, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
            if (i + 0.5) / 14 < share:
                pixels[8:28, 8:28] = [230, 20, 20]
            Image.fromarray(pixels).save(root / "test" / label / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def config(folders, photos, tmp_path_factory):
    phrases = tmp_path_factory.mktemp("phrases") / "phrases.csv"
    phrases.write_text("phrase,kind\nred square,object\nrock wall,background\nred image,colour\n")
    return {
        "dataset": {"root": str(photos)},
        "model": {
            "kind": "clip_zero_shot",
            "path": f"clip:{folders['clip']}",
            "prompts": {"cat": ["cat"], "dog": ["dog"]},
        },
        "propose": {"proposer": "file", "file": str(phrases), "text": f"clip:{folders['clip']}"},
        "detect": {"box_detector": f"owlv2:{folders['owlv2']}"},
        "embed": {"encoder": f"clip:{folders['clip']}", "superpixels": 4},
        "cluster": {"k_candidates": [4]},
        "ablate": {"images_per_cue": 8, "min_images": 3, "screen_p": 1.0},
        "associate": {"permutations": 99},
        "rank": {"bootstrap": 200},
        "compute": {"device": "cpu"},
    }


def _packaged(*_: object) -> None:
    raise AssertionError("a packaged model was loaded, though the configuration names checkpoints alone")


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    load_text.cache_clear()
    load_encoder.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(TEXTS, "minilm", _packaged)
        patched.setitem(ENCODERS, "efficientnet_lite0", _packaged)
        return discover(make_config(config), tmp_path_factory.mktemp("run"))


def test_every_stage_works_on_checkpoints(run):
    regions, embeddings = run.read("regions"), run.read("embeddings")
    assert "owlv2" in set(regions["detector"])
    assert set(embeddings["embedding"].list.len()) == {32}
    assert run.read("clusters")["phrase"].null_count() == 0
    effects = run.read("effects")
    assert set(effects["way"]) >= {"removal", "paste"}
    assert effects["prob_after"].is_between(0, 1).all()
    assert (effects["prob_after"] - effects["prob_control"]).abs().max() > 1e-4
    cues = run.read("cues")
    assert {"red square"} <= set(cues["phrase"]) | {p for ps in run.read("presences")["phrases"] for p in ps}
    page = (run.path / "report.html").read_text()
    assert "clip_zero_shot: clip:" in page
    assert "Intervention was not possible" not in page


def test_a_finished_run_has_nothing_to_do_until_a_checkpoint_changes(run, folders):
    assert not any(plan(run, stage) for stage in STAGES.values())
    weights = folders["owlv2"] / "model.safetensors"
    os.utime(weights, ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns + 1))
    assert plan(run, STAGES["detect"])
    assert not plan(run, STAGES["fit"])


def test_what_knows_no_text_has_its_clusters_named_by_another(config, folders, tmp_path):
    embed = {"encoder": f"dinov2:{folders['dinov2']}", "namer": f"clip:{folders['clip']}", "superpixels": 0}
    made = discover(make_config({**config, "embed": embed}), tmp_path / "run", until="cluster")
    clusters = made.read("clusters")
    assert clusters["phrase"].null_count() == 0
    assert set(clusters["kind"]) <= {"object", "background", "texture"}
    assert made.config.embed.encoder.startswith("dinov2")


def test_a_probe_is_fitted_on_any_encoder(config, folders, photos, tmp_path):
    model = {"kind": "probe", "backbone": f"dinov2:{folders['dinov2']}"}
    dataset = {"root": str(photos), "fit_split": "test", "holdout_frac": 0.5, "min_class_images": 5}
    made = discover(make_config({**config, "model": model, "dataset": dataset}), tmp_path / "run", until="predict")
    assert len(made.read("heads")["coef"][0]) == 32
    assert len(made.read("predictions")) > 5


def test_a_run_on_recorded_predictions_observes_and_says_so(config, photos, tmp_path):
    uris = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]
    table = pl.DataFrame({"uri": uris, "predicted": [uri.split("/")[1] for uri in uris]})
    table.write_csv(tmp_path / "predictions.csv")
    model = {"kind": "predictions", "path": str(tmp_path / "predictions.csv")}
    made = discover(make_config({**config, "model": model}), tmp_path / "run")
    predictions = made.read("predictions")
    assert len(predictions) == len(uris)
    assert predictions["correct"].all()
    assert made.read("effects").is_empty()
    cues = made.read("cues")
    assert set(cues["verdict"]) <= {"not enough data", "no evidence"}
    assert cues["reason"].str.contains("intervention was not possible").any()
    page = (made.path / "report.html").read_text()
    assert page.index("Intervention was not possible") < page.index("<table")
    assert json.loads((made.path / "cues.json").read_text())["run"]["intervention_possible"] is False
