import logging

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from discovery import presence
from discovery.config import PresenceConfig, make_config
from discovery.presence import Sighting, cue_id, merge
from discovery.run import Run, frame_of

CONFIG = PresenceConfig()


def sighting(rows: list[tuple[str, str, str, list[int]]], photos: int = 10) -> Sighting:
    shown = np.zeros((len(rows), photos), bool)
    for i, row in enumerate(rows):
        shown[i, row[3]] = True
    return Sighting(*([row[k] for row in rows] for k in range(3)), sparse.csr_matrix(shown), shown.sum(axis=1) * 1.0)


def apart(n: int) -> np.ndarray:
    return np.eye(n, dtype=np.float32)


def test_synonyms_become_the_strongest_of_them():
    seen = sighting([("rock face", "background", "attribute", [0]), ("cliff", "background", "attribute", [1, 2, 3])])
    assert merge(seen, np.ones((2, 1), np.float32), CONFIG).tolist() == [1, 1]


def test_unlike_phrases_stay_apart():
    seen = sighting([("cliff", "background", "attribute", [0, 1]), ("boat", "object", "attribute", [0, 1])])
    assert merge(seen, apart(2), CONFIG).tolist() == [0, 1]


def test_computed_kinds_are_matched_by_their_words_alone():
    seen = sighting([("red circle", "object", "computed", [0, 1]), ("blue circle", "object", "computed", [0, 1])])
    assert merge(seen, np.ones((2, 1), np.float32), CONFIG).tolist() == [0, 1]


def test_related_phrases_are_one_cue_only_when_seen_together():
    close = np.array([[1, 0], [0.5, np.sqrt(0.75)]], np.float32)
    together = sighting(
        [("lake", "background", "attribute", [0, 1, 2]), ("pier", "background", "attribute", [0, 1, 2])]
    )
    elsewhere = sighting(
        [("lake", "background", "attribute", [0, 1, 2]), ("pier", "background", "attribute", [7, 8, 9])]
    )
    assert len(set(merge(together, close, CONFIG))) == 1
    assert len(set(merge(elsewhere, close, CONFIG))) == 2


def test_a_thing_and_a_place_stay_apart_however_alike_their_words():
    rows = [("baseball", "object", "attribute", [0, 1, 2]), ("baseball field", "background", "attribute", [0, 1, 2])]
    assert merge(sighting(rows), np.ones((2, 1), np.float32), CONFIG).tolist() == [0, 1]
    cloth = [rows[0], ("leather", "texture", "attribute", [0, 1, 2])]
    assert len(set(merge(sighting(cloth), np.ones((2, 1), np.float32), CONFIG))) == 1


def test_a_cluster_joins_the_attribute_that_it_repeats_whatever_its_name():
    seen = sighting([("lollipop", "object", "cluster", [0, 1, 2]), ("red circle", "object", "computed", [0, 1, 2])])
    assert merge(seen, apart(2), CONFIG).tolist() == [1, 1]


def test_two_attributes_seen_together_are_not_one_cue():
    seen = sighting([("helmet", "object", "attribute", [0, 1]), ("cliff", "background", "attribute", [0, 1])])
    assert merge(seen, apart(2), CONFIG).tolist() == [0, 1]


@pytest.fixture
def run(tmp_path, monkeypatch):
    class Words:
        def encode(self, phrases):
            return np.stack([np.eye(8, dtype=np.float32)[sum(map(ord, p)) % 8] for p in phrases])

    monkeypatch.setattr(presence, "load_text", lambda *_: Words())
    made = Run.create(tmp_path, make_config({"dataset": {"root": "x"}}))
    photos = [
        {
            "sample_id": f"{label}{i}",
            "uri": "x",
            "split": "train",
            "label": label,
            "audit": True,
            "width_px": 9,
            "height_px": 9,
        }
        for label in "ab"
        for i in range(3)
    ]
    tables = {
        "samples": photos,
        "attributes": [
            {"attribute_id": "1", "label": "a", "phrase": "cliff", "kind": "background"},
            {"attribute_id": "2", "label": "a", "phrase": "red circle", "kind": "object"},
            {"attribute_id": "2", "label": "b", "phrase": "red circle", "kind": "object"},
        ],
        "regions": [
            {"region_id": "r0", "sample_id": "a0", "attribute_id": "1", "detector": "conse", "score": 3.5},
            {"region_id": "r1", "sample_id": "a0", "attribute_id": "1", "detector": "conse", "score": 4.5},
            {"region_id": "r2", "sample_id": "a1", "attribute_id": "1", "detector": "conse", "score": 1.0},
            {"region_id": "r3", "sample_id": "b0", "attribute_id": "2", "detector": "appearance", "score": 0.9},
            {"region_id": "r4", "sample_id": "b1", "detector": "agnostic", "score": 1.0},
        ],
        "clusters": [{"region_id": "r4", "cluster_id": 7, "distance": 0.25, "phrase": "boat", "kind": "object"}],
    }
    for table, rows in tables.items():
        made.write(table, frame_of(table, rows), shard=0, fingerprint="f")
    return made


def test_a_photo_shows_a_cue_when_a_region_passes_its_detectors_threshold(run):
    found = presence.STAGE.work(run, None)
    cliff = found.filter(pl.col("phrase") == "cliff")
    assert cliff["sample_id"].to_list() == ["a0"]
    assert sorted(cliff["region_ids"][0]) == ["r0", "r1"]
    assert cliff["score"][0] == pytest.approx(4.5)


def test_presences_are_the_same_however_the_regions_are_cut_into_parts(run):
    whole = presence.STAGE.work(run, None)
    regions = run.read("regions")
    for part, rows in enumerate((regions[:3], regions[3:3], regions[3:])):
        run.write("regions", rows, shard=part, fingerprint="f")
    assert presence.STAGE.work(run, None).equals(whole)


def test_the_threshold_is_kept_and_said_and_a_cluster_has_none(run, caplog):
    with caplog.at_level(logging.INFO):
        found = presence.STAGE.work(run, None)
    kept = dict(found.select("phrase", "threshold").iter_rows())
    assert kept == {"cliff": pytest.approx(3.0), "red circle": pytest.approx(0.5), "boat": None}
    assert "conse 3 (prior)" in caplog.text


def test_a_threshold_of_the_users_own_goes_before_what_is_learned(run):
    values = {"dataset": {"root": "x"}, "presence": {"thresholds": {"conse": 4.0}}}
    found = presence.STAGE.work(Run(run.path, make_config(values)), None)
    cliff = found.filter(pl.col("phrase") == "cliff")
    assert cliff["region_ids"].to_list() == [["r1"]]
    assert cliff["threshold"].to_list() == [4.0]
    assert found.filter(pl.col("phrase") == "red circle")["threshold"].to_list() == [0.5]


def test_thresholds_are_learned_from_the_best_score_of_each_photo_and_phrase(run):
    rng = np.random.default_rng(0)
    best = np.concatenate([rng.normal(2.0, 0.3, 300), rng.normal(6.0, 0.3, 300)])
    # Weaker windows of the photos that show it: were they counted too, the threshold would be near 3.
    weaker = rng.normal(4.5, 0.3, 900)
    photos = [*range(600), *np.tile(np.arange(300, 600), 3)]
    rows = [
        {"region_id": f"r{i}", "sample_id": f"s{photo}", "attribute_id": "1", "detector": "conse", "score": score}
        for i, (photo, score) in enumerate(zip(photos, np.concatenate([best, weaker]).tolist(), strict=True))
    ]
    run.write("regions", frame_of("regions", rows), shard=0, fingerprint="f")
    limits = presence._limits(run)
    assert limits["threshold"].to_list() == [pytest.approx(4.0, abs=0.3)]


def test_a_cue_remembers_for_which_classes_it_was_proposed(run):
    found = {row["phrase"]: row for row in presence.STAGE.work(run, None).iter_rows(named=True)}
    assert found["cliff"]["labels"] == ["a"]
    assert found["red circle"]["labels"] == ["a", "b"]
    assert found["boat"]["labels"] == []  # a cluster: tried against every class
    assert found["boat"]["source"] == "cluster"


def test_ids_are_stable_and_tell_kinds_apart():
    assert cue_id("net", "object") == cue_id("net", "object") != cue_id("net", "texture")


def test_a_cluster_that_repeats_a_computed_cue_does_not_blur_its_regions(run):
    rows = [
        {"region_id": "r3", "sample_id": "b0", "attribute_id": "2", "detector": "appearance", "score": 0.9},
        {"region_id": "r4", "sample_id": "b0", "detector": "agnostic", "score": 1.0},
    ]
    run.write("regions", frame_of("regions", rows), shard=0, fingerprint="f")
    found = presence.STAGE.work(run, None)
    assert found["phrase"].to_list() == ["red circle"]
    assert found["source"].to_list() == ["attribute+cluster"]
    assert found["region_ids"].to_list() == [["r3"]]
