"""A photo is explained with a run's model: what flips it, which cues that meets, and a page that stands alone."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from red_model import Reds, painted
from typer.testing import CliRunner

from discovery.config import ExplainConfig, make_config
from discovery.errors import ConfigError
from discovery.explanation import explain_photo
from discovery.explanation_page import render_explanation, summary
from discovery.run import Run, frame_of

MODEL = Reds()


def predict(images):
    return MODEL.predict(images)


@pytest.fixture
def run(tmp_path) -> Run:
    """A run whose model is a function, with one photo that shows a cue with a place and one without."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, view in {"a": painted(3, 4), "elsewhere": painted(3, 4), "blue": painted()}.items():
        Image.fromarray(view).save(photos / f"{name}.png")
    (photos / "elsewhere.png").rename(tmp_path / "elsewhere.png")
    model = {"kind": "python", "callable": f"{__name__}:predict", "classes": ["red", "blue"]}
    made = Run.create(tmp_path / "run", make_config({"dataset": {"root": str(photos)}, "model": model}))
    uri = "a.png"
    region = {"region_id": "r", "sample_id": uri, "x0": 24.0, "y0": 0.0, "x1": 56.0, "y1": 8.0, "score": 1.0}
    seen = {"sample_id": uri, "score": 1.0}
    tables = {
        "samples": [{"sample_id": uri, "uri": uri, "label": "red", "width_px": 56, "height_px": 56}],
        "heads": [{"class_name": name} for name in MODEL.classes],
        "regions": [region, {"region_id": "w", "sample_id": uri, "score": 1.0}],
        "presences": [
            {**seen, "cue_id": "c", "phrase": "stripe <b>", "kind": "object", "region_ids": ["r"]},
            {**seen, "cue_id": "t", "phrase": "tint", "kind": "colour", "region_ids": ["w"]},
        ],
        "cues": [{"label": "red", "cue_id": "c", "phrase": "stripe <b>", "verdict": "spurious"}],
    }
    for table, rows in tables.items():
        made.write(table, frame_of(table, rows), shard=0, fingerprint="x")
    return made


def test_the_set_that_flips_is_found_and_the_cue_that_it_meets_is_named(run):
    found = explain_photo(run, Path(run.config.dataset.root) / "a.png", None, ExplainConfig())
    assert found.label == "red"
    assert set(found.flip.regions) <= {3, 4}
    assert found.flip.probs.argmax() == 1
    (met,) = found.met  # the tint has no place
    assert (met.phrase, met.verdict, met.share) == ("stripe <b>", "spurious", 1.0)
    assert met.covered == pytest.approx(len(found.flip.regions) / 4)
    assert [curve.fill for curve in found.curves] == ["blur", "mean"]
    assert "answers blue instead of red" in summary(found)


def test_a_photo_of_no_run_has_no_cues(run, tmp_path):
    assert explain_photo(run, tmp_path / "elsewhere.png", None, ExplainConfig()).met is None


def test_regions_may_be_the_cues_themselves(run, tmp_path):
    config = ExplainConfig(regions="cues")
    found = explain_photo(run, Path(run.config.dataset.root) / "a.png", None, config)
    assert found.flip.regions == (0,)
    assert found.masks[0].sum() == 32 * 8
    with pytest.raises(ConfigError, match="need a photo of the run"):
        explain_photo(run, tmp_path / "elsewhere.png", None, config)


def test_a_class_that_is_not_the_answer_has_nothing_to_flip_and_says_so(run):
    found = explain_photo(run, Path(run.config.dataset.root) / "blue.png", "red", ExplainConfig(regions="superpixels"))
    assert found.flip is None
    assert "there is no answer red to flip" in summary(found)


def test_an_answer_that_nothing_flips_is_said_to_be_that_of_the_fill(run):
    found = explain_photo(run, Path(run.config.dataset.root) / "blue.png", None, ExplainConfig())
    assert found.flip is None
    assert summary(found).startswith("Nothing flips it: the model answers blue")
    assert "<svg" in render_explanation(found)


def test_an_unknown_class_is_refused_by_name(run):
    with pytest.raises(ConfigError, match="no class 'green'; choose from red, blue"):
        explain_photo(run, Path(run.config.dataset.root) / "a.png", "green", ExplainConfig())


def test_the_page_stands_alone_and_escapes_what_it_is_given(run):
    found = explain_photo(run, Path(run.config.dataset.root) / "a.png", None, ExplainConfig())
    page = render_explanation(found)
    assert page == render_explanation(found)
    assert page.count("data:image/jpeg;base64,") == 3
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page.replace("xlink:", ""))
    assert "<script" not in page
    assert "stripe &lt;b&gt;" in page
    assert "stripe <b>" not in page
    assert f"asked the model about {found.n_forwards[0]} views" in page


def test_the_command_prints_what_flips_and_ends_with_the_path(run):
    from flows.cli import app

    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    photo = str(Path(run.config.dataset.root) / "a.png")
    result = CliRunner().invoke(app, ["explain", photo, "--run", str(run.path), "--set", "explain.side=7"])
    assert result.exit_code == 0, result.output
    page = Path(result.stdout.splitlines()[-1])
    assert page == run.path / "explanations" / "a-red.html"
    assert page.is_file()
    assert "answers blue instead of red" in " ".join(result.stdout.split())
    assert "stripe <b>" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg"], "no such file"),
        (["a.png", "--label", "green"], "no class 'green'"),
        (["a.png", "--set", "explain.fills=['blur']"], "explain.fills"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, arguments, said):
    from flows.cli import app

    photo, *rest = arguments
    result = CliRunner().invoke(
        app, ["explain", str(Path(run.config.dataset.root) / photo), "--run", str(run.path), *rest]
    )
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_masks_and_probabilities_fit_the_view(run):
    found = explain_photo(run, Path(run.config.dataset.root) / "a.png", None, ExplainConfig())
    assert found.removed.shape == found.view.shape[:2]
    np.testing.assert_array_equal(found.without[~found.removed], found.view[~found.removed])
    assert isinstance(run.read("cues"), pl.DataFrame)
