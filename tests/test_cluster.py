"""Clustering on numbers whose answer is known: the silhouette that chooses k, and a stage that reads part by part."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import silhouette_score

from discovery import naming
from discovery.cluster import STAGE, cosine_silhouette
from discovery.config import make_config
from discovery.run import Run, frame_of


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_the_silhouette_is_that_of_all_distances(rng, spread):
    ids = np.array([3] * 20 + [5] * 30 + [6] * 9 + [8])  # ids with holes, and a cluster of one
    rows = unit(np.eye(9, 24)[ids] + spread * rng.normal(size=(60, 24)))
    assert cosine_silhouette(rows, ids) == pytest.approx(silhouette_score(rows, ids, metric="cosine"), abs=1e-5)


@pytest.mark.parametrize("ids", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_no_silhouette_without_two_clusters_or_with_nothing_but_single_members(ids):
    assert cosine_silhouette(np.eye(4, dtype=np.float32), np.array(ids)) == -1


class FirstNumbers:
    """Names a region by the phrase whose place in the list is the largest number of its embedding."""

    speaks = True

    def scores(self, embedded, phrases):
        return np.pad(embedded.embedding, ((0, 0), (0, len(phrases) - embedded.embedding.shape[1])))


def test_regions_of_all_parts_are_clustered_and_named_in_order(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(naming, "load_encoder", lambda *_: FirstNumbers())
    config = make_config({"dataset": {"root": "."}, "cluster": {"k_candidates": [3, 4], "sample": 60}})
    run = Run.create(tmp_path / "run", config)
    named = [{"attribute_id": p, "label": "a", "phrase": p, "kind": "object"} for p in ("zero", "one", "two")]
    run.write("attributes", frame_of("attributes", named), shard=0, fingerprint="x")
    truth = rng.integers(3, size=130)
    rows = unit(np.eye(3, 8)[truth] + 0.05 * rng.normal(size=(130, 8)))
    for part, span in enumerate((slice(0, 70), slice(70, 70), slice(70, 130))):
        ids = [f"r{i}" for i in range(130)[span]]
        vectors = pl.Series(rows[span].tolist(), dtype=pl.List(pl.Float32))
        frame = pl.DataFrame({"region_id": ids, "embedding": vectors, "norm": np.ones(len(ids), np.float32)})
        run.write("embeddings", frame, shard=part, fingerprint="x")
    found = STAGE.work(run, None)
    assert found["region_id"].to_list() == [f"r{i}" for i in range(130)]
    assert found["phrase"].to_list() == [("zero", "one", "two")[i] for i in truth]
    assert found["distance"].max() < 0.1


def test_no_regions_make_an_empty_table(tmp_path):
    run = Run.create(tmp_path / "run", make_config({"dataset": {"root": "."}}))
    run.write("embeddings", frame_of("embeddings", []), shard=0, fingerprint="x")
    found = STAGE.work(run, None)
    assert len(found) == 0
    run.write("clusters", found, shard=0, fingerprint="x")
