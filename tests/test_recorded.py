"""Predictions made elsewhere: looked up by photo, observed, and never taken for a model that was asked."""

import numpy as np
import polars as pl
import pytest

from discovery.backends.classifier import load_classifier
from discovery.backends.roles import Head
from discovery.config import ComputeConfig, ModelConfig, RankConfig, make_config
from discovery.errors import BackendError, ConfigError, DataError
from discovery.reaction import load_subject
from discovery.verdict import judge

COMPUTE = ComputeConfig(device="cpu")
HEAD = Head(("cat", "dog"))
SAMPLES = pl.DataFrame({"sample_id": ["s1", "s2", "s3"], "uri": ["a.jpg", "b.jpg", "c.jpg"]})
PROBS = pl.DataFrame({"prob_dog": [0.1, 0.7, 0.5], "prob_cat": [0.9, 0.3, 0.5]})


def looked_up(tmp_path, table: pl.DataFrame, *, suffix: str = "csv", head: Head = HEAD) -> np.ndarray:
    path = tmp_path / f"predictions.{suffix}"
    table.write_csv(path) if suffix == "csv" else table.write_parquet(path)
    return load_classifier(ModelConfig(kind="predictions", path=str(path)), COMPUTE, head).probs_of(SAMPLES)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("key", ["uri", "sample_id"])
def test_photos_are_found_by_either_name_in_any_order(tmp_path, key, suffix):
    table = pl.concat([SAMPLES.select(key), PROBS], how="horizontal").reverse()
    found = looked_up(tmp_path, table, suffix=suffix)
    np.testing.assert_allclose(found, [[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])


def test_bare_predictions_are_certain(tmp_path):
    table = SAMPLES.select("uri").with_columns(predicted=pl.Series(["dog", "cat", "dog"]))
    np.testing.assert_array_equal(looked_up(tmp_path, table), [[0, 1], [1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pl.DataFrame({"uri": ["a.jpg", "b.jpg"], "predicted": ["cat", "dog"]}), "no row for 1 of 3 photos, such as c"),
        (
            pl.DataFrame({"uri": list("aabc"), "predicted": ["cat"] * 4}).with_columns(pl.col("uri") + ".jpg"),
            "more than",
        ),
        (SAMPLES.select("uri").with_columns(predicted=pl.lit("yak")), "predicts 'yak', which is no class"),
        (SAMPLES.select("uri").with_columns(prob_cat=pl.lit(1.0)), "no column 'prob_dog' and no column 'predicted'"),
        (SAMPLES.select("uri").with_columns(score=pl.lit(1.0)), "no column 'prob_cat'"),
        (pl.DataFrame({"photo": ["a.jpg"], "predicted": ["cat"]}), "needs a column uri or sample_id, got photo"),
        (pl.concat([SAMPLES.select("uri"), PROBS + 1], how="horizontal"), "probabilities that sum to 1"),
    ],
)
def test_a_table_that_cannot_answer_is_one_line(tmp_path, table, said):
    with pytest.raises((DataError, BackendError), match=said) as caught:
        looked_up(tmp_path, table)
    assert "\n" not in str(caught.value)


def test_changed_photos_are_refused(tmp_path):
    path = tmp_path / "p.csv"
    SAMPLES.with_columns(predicted=pl.lit("cat")).write_csv(path)
    model = load_classifier(ModelConfig(kind="predictions", path=str(path)), COMPUTE, HEAD)
    assert model.predict([]).shape == (0, 2)
    with pytest.raises(BackendError, match="cannot be asked about changed ones"):
        model.predict([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(ConfigError, match=r"needs model\.path"):
        make_config({"dataset": {"root": "."}, "model": {"kind": "predictions"}})


def test_what_was_only_observed_is_never_called_spurious():
    row = {"screened": False, "q_tied": 0.001, "tie": "bias", "tie_sign": 1, "prevalence": 0.9, "prevalence_rest": 0.1}
    verdict, reason = judge(row | {"can_be_asked": False}, RankConfig())
    assert verdict == "not enough data"
    assert "Seen in 90% of the class" in reason
    assert "intervention was not possible" in reason
    assert judge(row | {"can_be_asked": False, "q_tied": 0.5}, RankConfig())[0] == "no evidence"


def test_recorded_predictions_cannot_be_calibrated(tmp_path):
    config = make_config({"dataset": {"root": "."}, "model": {"kind": "predictions", "path": str(tmp_path / "p.csv")}})
    with pytest.raises(ConfigError, match="cannot be calibrated"):
        load_subject(config, None, 0)
