"""What the benchmark of discovery keeps: rows of several processes, and only those that the present code made."""

import json

import numpy as np
import polars as pl
from benchmarks.arena import presences_of
from benchmarks.discovery_tables import report
from benchmarks.results import Results

MARKS = {"ours": "a1", "peers": "b1"}


def test_rows_of_every_process_are_read_back(tmp_path):
    Results(tmp_path, MARKS).add([{"name": "x", "method": "m", "share": np.float64(0.5)}], "ours")
    tmp_path.joinpath("results-other.jsonl").write_text(
        '{"name": "y", "method": "n", "kind": "peers", "code": "b1"}\n'
        '{"name": "x", "method": "m", "kind": "ours", "code": "a1"}\n'  # judged by both: counted once
    )
    kept = Results(tmp_path, MARKS)
    assert sorted((row["name"], row["method"]) for row in kept.rows) == [("x", "m"), ("y", "n")]
    assert kept.has("x", "m")
    assert not kept.has("x", "n")


def test_rows_that_another_code_made_are_left_out(tmp_path):
    first = Results(tmp_path, MARKS)
    first.add([{"name": "x", "method": "m"}], "ours")
    first.add([{"name": "x", "method": "n"}], "peers")
    changed = Results(tmp_path, MARKS | {"ours": "a2"})
    assert [row["method"] for row in changed.rows] == ["n"]
    assert changed.n_stale == 1
    changed.add([{"name": "x", "method": "m"}], "ours")
    assert len(Results(tmp_path, MARKS | {"ours": "a2"}).rows) == 2
    (file,) = tmp_path.glob("results-*.jsonl")
    assert len(file.read_text().splitlines()) == 3


def test_presences_are_where_a_score_is():
    cues = [{"cue_id": c, "phrase": c, "kind": "object", "source": "cluster"} for c in "ab"]
    shown = np.array([[np.nan, 0.5], [0.25, np.nan]])
    found = presences_of(cues, shown, ["i", "j"], {(0, 1): ["r1", "r2"], (1, 0): []})
    assert found.select("cue_id", "sample_id", "score").rows() == [("a", "j", 0.5), ("b", "i", 0.25)]
    assert found["region_ids"].to_list() == [["r1", "r2"], []]
    assert found["phrases"].to_list() == [["a"], ["b"]]
    assert found.schema["threshold"] == pl.Float32


def test_a_null_that_reports_counts_against_the_method_and_an_exhaustive_run_does_not():
    row = {"name": "d", "arena": "digits", "null": "", "cramers_v": 0.0, "method": "this pipeline", "targets": []}
    row |= {"p10": 0.0, "n_reported": 0, "n_nothing": 0, "decoy": False, "unused": False, "seconds": 1.0}
    row |= {"forwards": 10, "alone": 20, "top": []}
    other = row | {"name": "e", "n_reported": 2, "top": ["a: b"]}
    exhaustive = other | {"method": "exhaustive", "forwards": 25, "alone": 50}
    table = report([json.loads(json.dumps(r)) for r in (row, other, exhaustive)])
    assert "| this pipeline | 0.500 (1 of 2, ≤ 0.975) | – | – |" in table
    assert "| share of the forwards spent: median, most | 0.200, 0.200 | ≤ 0.2 |" in table
    assert "classes | 0.400, 0.400 |" in table
    dearer = report([row, other, exhaustive | {"alone": 49}])
    assert "| share of the forwards spent: median, most | 0.204, 0.204 | ≤ 0.2, **missed** |" in dearer
    assert "| the same reported cues among the first ten | 1.000 (1 of 1, ≤ 1.000) | ≥ 0.95 |" in dearer
    assert "| reported by both, of those reported by either (mean) | 1.000 |" in report(
        [row, row | {"method": "exhaustive"}]
    )
    other_top = report([row, other, exhaustive | {"top": ["c: d"]}])
    assert "| the same reported cues among the first ten | 0.000 (0 of 1, ≤ 0.950) | ≥ 0.95, **missed** |" in other_top
