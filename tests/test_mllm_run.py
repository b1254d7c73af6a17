"""The whole corridor with a multimodal LLM as the model under audit: at a real server, and a tiny LLaVA."""

import numpy as np
import polars as pl
import pytest
from chat_server import chat_server
from mllm_scene import SIDE, mind, settings, write_photos
from tiny_llava import save_llava

from discovery.asking import ask_run
from discovery.config import make_config
from discovery.corridor import discover


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all runs: what does not depend on the model is made once."""
    folder = tmp_path_factory.mktemp("mllm")
    write_photos(folder / "photos", 40)
    return folder


def run_with(place, mllm: dict):
    return discover(make_config(settings(place / "photos", mllm)), place / "run")


def served(place, reaction: float):
    """Returns the run of a model at a server with this reaction, what it was found to make up, and its calls."""
    with chat_server() as server:
        server.otherwise = mind(reaction)
        where = {"llm": "tiny", "base_url": server.base_url, "cache": str(place / f"cache-{reaction}")}
        run = run_with(place, where)
        calls = len(server.asked)
        return run.read("cues"), ask_run(run), calls


def of(frame: pl.DataFrame, label: str, phrase: str) -> pl.DataFrame:
    return frame.filter((pl.col("label") == label) & (pl.col("phrase") == phrase))


def test_a_planted_hallucination_cue_is_found_by_both_ways(place):
    cues, found, calls = served(place, 3.0)
    planted = of(cues, "dog", "red circle").row(0, named=True)
    assert planted["verdict"] == "spurious"
    assert planted["logit_effect"] > 1
    others = cues.filter(pl.col("phrase") != "red circle")
    assert "spurious" not in set(others["verdict"])
    made_up = of(found, "dog", "red circle").filter((pl.col("probe") == "other") & (pl.col("wording") == "all"))
    made_up = made_up.row(0, named=True)
    assert (made_up["rate_with"], made_up["rate_without"]) == (1.0, 0.0)
    assert made_up["logit_q"] <= 0.05
    spent = int(cues["n_forwards"].sum())
    assert calls == 4 * (80 + spent)  # two classes in two orders, for each photo and each variant of one


def test_a_model_without_the_reaction_is_found_free_of_it(place):
    cues, found, _ = served(place, 0.0)
    assert "spurious" not in set(cues["verdict"])
    summed = found.filter(pl.col("wording") == "all")
    assert (summed["gap_q"] > 0.05).all()
    assert (summed["logit_q"] > 0.05).all()


def test_a_tiny_llava_goes_through_the_same_corridor(place, tmp_path):
    folder = save_llava(tmp_path / "llava", size_px=64)
    run = run_with(place, {"checkpoint": str(folder), "min_mass": 0.0, "side_px": SIDE})
    predictions = run.read("predictions")
    np.testing.assert_allclose([sum(probs) for probs in predictions["probs"]], 1, atol=1e-5)
    assert set(predictions["predicted"]) <= {"cat", "dog"}
    assert len(run.read("effects"))
    assert str(folder) in (run.path / "report.html").read_text()
