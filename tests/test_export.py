"""The export gives retraining its groups, weights that balance them, and metadata in a form others read."""

import csv
import io
import json

import polars as pl
import pyarrow.parquet as pq
import pytest

from discovery.config import ExportConfig, make_config
from discovery.errors import ConfigError
from discovery.export import (
    MAX_PLACE_CUES,
    METADATA_COLUMNS,
    STAGE,
    choose_cues,
    choose_rows,
    make_groups,
    make_legend,
    make_metadata,
)
from discovery.run import Run
from discovery.schema import TABLES

SAMPLES = pl.DataFrame(
    {
        "sample_id": [f"s{i}" for i in range(8)],
        "uri": ["a, b.jpg", *(f"p{i}.jpg" for i in range(1, 8))],
        "split": ["train"] * 4 + ["test", "valid", "Val", "extra"],
        "label": ["owl", "owl", "owl", "cat", "cat", "cat", "owl", "owl"],
    }
)
CUES = pl.DataFrame({"cue_id": ["c0", "c1"], "phrase": ["snow", "rope"]})
PRESENCES = pl.DataFrame(
    {"cue_id": ["c0", "c0", "c0", "c1"], "sample_id": ["s0", "s1", "s4", "s0"], "score": [0.9, 0.5, 0.7, 0.6]}
)


def rows(table: str, records: list[dict]) -> pl.DataFrame:
    """Builds a whole table from partial records; what is not given is null."""
    empty = pl.from_arrow(TABLES[table].empty_table())
    return pl.DataFrame([dict.fromkeys(empty.columns) | r for r in records], schema=empty.schema, orient="row")


def ranked(*cues: tuple[str, str, str, float | None]) -> pl.DataFrame:
    """Builds `cues` from (label, cue_id, verdict, score)."""
    names = ("label", "cue_id", "verdict", "score")
    return rows("cues", [dict(zip(names, cue, strict=True)) | {"phrase": f"phrase {cue[1]}"} for cue in cues])


def chosen(cues: pl.DataFrame, **config) -> list[str]:
    return choose_cues(choose_rows(cues, ExportConfig(**config)))["cue_id"].to_list()


def read_metadata(samples=SAMPLES, cues=CUES, presences=PRESENCES) -> list[dict]:
    return list(csv.DictReader(io.StringIO(make_metadata(samples, cues, presences))))


def test_only_asked_for_verdicts_are_exported_each_cue_once_and_the_strongest_first():
    cues = ranked(
        ("owl", "weak", "spurious", 1.0),
        ("cat", "weak", "spurious", 3.0),
        ("owl", "strong", "spurious", 2.0),
        ("owl", "core", "core", 9.0),
        ("cat", "unscored", "spurious", None),
    )
    assert chosen(cues) == ["weak", "strong", "unscored"]
    assert "core" in chosen(cues, verdicts=("spurious", "core"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("core",), [("owl", "core")]),
        (("phrase weak",), [("owl", "weak"), ("cat", "weak")]),
        (("cat: phrase weak", "core"), [("owl", "core"), ("cat", "weak")]),
        (("owl: weak",), [("owl", "weak")]),
    ],
)
def test_named_cues_are_exported_whatever_their_verdict_and_for_the_class_that_is_named(names, expected):
    cues = ranked(("owl", "weak", "spurious", 1.0), ("owl", "core", "core", 9.0), ("cat", "weak", "spurious", 3.0))
    assert choose_rows(cues, ExportConfig(cues=names)).select("label", "cue_id").rows() == expected


def test_a_name_that_no_cue_has_is_refused_with_what_is_near_to_it():
    cues = ranked(("owl", "weak", "spurious", 1.0))
    with pytest.raises(ConfigError, match=r"called 'phrase weka'; did you mean .*'phrase weak'"):
        choose_rows(cues, ExportConfig(cues=("phrase weka",)))
    with pytest.raises(ConfigError, match="see: discovery cues RUN_DIR"):
        choose_rows(cues, ExportConfig(cues=("zzz",)))


def test_every_sample_is_in_one_group_of_every_cue():
    groups = make_groups(SAMPLES, CUES, PRESENCES)
    assert groups.columns == TABLES["groups"].names
    assert len(groups) == len(SAMPLES) * len(CUES)
    assert groups.select(pl.struct("sample_id", "cue_id").is_unique().all()).item()


def test_a_group_is_named_by_label_phrase_and_presence():
    groups = make_groups(SAMPLES, CUES, PRESENCES).filter(pl.col("cue_id") == "c0")
    named = dict(zip(groups["sample_id"], groups["group"], strict=True))
    assert (named["s0"], named["s2"], named["s4"]) == ("owl|snow|1", "owl|snow|0", "cat|snow|1")
    assert groups.filter("cue_present")["sample_id"].to_list() == ["s0", "s1", "s4"]
    assert groups.filter("cue_present")["score"].to_list() == [0.9, 0.5, 0.7]
    assert groups.filter(~pl.col("cue_present"))["score"].null_count() == 5


def test_weights_are_inverse_to_group_size_within_each_split():
    groups = make_groups(SAMPLES, CUES, PRESENCES).filter((pl.col("cue_id") == "c0") & (pl.col("split") == "train"))
    weights = dict(zip(groups["sample_id"], groups["weight"], strict=True))
    assert weights == pytest.approx({"s0": 4 / 6, "s1": 4 / 6, "s2": 4 / 3, "s3": 4 / 3})


def test_weights_have_mean_one_and_groups_weigh_the_same():
    groups = make_groups(SAMPLES, CUES, PRESENCES)
    means = groups.group_by("cue_id", "split").agg(pl.col("weight").mean())
    assert means["weight"].to_list() == pytest.approx([1.0] * len(means))
    sums = groups.group_by("cue_id", "split", "group").agg(pl.col("weight").sum())
    spread = sums.group_by("cue_id", "split").agg(pl.col("weight").max() - pl.col("weight").min())
    assert spread["weight"].abs().max() < 1e-9


def test_metadata_has_the_columns_and_codes_that_others_read():
    found = read_metadata()
    assert tuple(found[0]) == METADATA_COLUMNS
    assert [row["img_id"] for row in found] == [str(i) for i in range(8)]
    assert found[0]["img_filename"] == "a, b.jpg"
    assert [row["y"] for row in found] == list("11100011")
    assert [row["split"] for row in found] == list("00002110")


def test_place_combines_the_cues_bit_by_bit():
    assert [row["place"] for row in read_metadata()] == list("31001000")
    assert [row["place_filename"] for row in read_metadata()][:3] == ["snow; rope", "snow", "none"]


def test_a_repeated_presence_counts_once():
    assert read_metadata(presences=pl.concat([PRESENCES, PRESENCES])) == read_metadata()
    assert len(make_groups(SAMPLES, CUES, pl.concat([PRESENCES, PRESENCES]))) == 16


def test_the_legend_names_every_code():
    legend = make_legend(SAMPLES, CUES)
    assert legend["y"] == {0: "cat", 1: "owl"}
    assert legend["place"]["cues"] == [
        {"bit": 0, "cue_id": "c0", "phrase": "snow"},
        {"bit": 1, "cue_id": "c1", "phrase": "rope"},
    ]


def test_cues_beyond_the_code_are_named_as_left_out():
    n = MAX_PLACE_CUES + 1
    cues = pl.DataFrame({"cue_id": [f"c{i}" for i in range(n)], "phrase": [f"phrase {i}" for i in range(n)]})
    shown = {"cue_id": [f"c{i}" for i in range(n)], "sample_id": ["s0"] * n, "score": [1.0] * n}
    presences = pl.DataFrame(shown)
    assert read_metadata(cues=cues, presences=presences)[0]["place"] == str(2**MAX_PLACE_CUES - 1)
    assert [cue["cue_id"] for cue in make_legend(SAMPLES, cues)["place"]["left_out"]] == [f"c{MAX_PLACE_CUES}"]


@pytest.mark.parametrize(("verdict", "n_groups"), [("spurious", 8), ("no evidence", 0)])
def test_the_stage_writes_the_same_groups_beside_the_table(tmp_path, verdict, n_groups):
    run = Run.create(tmp_path, make_config({"dataset": {"root": "photos"}}))
    run.write("samples", rows("samples", SAMPLES.to_dicts()), shard=0, fingerprint="x")
    run.write("presences", rows("presences", PRESENCES.to_dicts()), shard=0, fingerprint="x")
    run.write("cues", ranked(("owl", "c0", verdict, 1.0)), shard=0, fingerprint="x")
    run.write("groups", STAGE.work(run, None), shard=0, fingerprint="x")
    copy = pl.from_arrow(pq.read_table(tmp_path / "groups.parquet"))
    assert len(copy) == n_groups
    assert copy.equals(run.read("groups"))
    assert (tmp_path / "metadata.csv").read_text().splitlines()[0] == ",".join(METADATA_COLUMNS)
    assert len((tmp_path / "metadata.csv").read_text().splitlines()) == 9
    assert len(json.loads((tmp_path / "metadata_legend.json").read_text())["place"]["cues"]) == (n_groups > 0)
