import errno
import os

import polars as pl
import pyarrow.parquet as pq
import pytest

from discovery import run as run_module
from discovery.config import make_config
from discovery.errors import DataError
from discovery.run import Run, Stage, code_hash, conform, frame_of, is_current, part_fingerprint

CONFIG = make_config({"dataset": {"root": "x"}})


def heads(*names: str) -> pl.DataFrame:
    return frame_of("heads", [{"class_name": name} for name in names])


@pytest.fixture
def made(tmp_path):
    return Run.create(tmp_path / "run", CONFIG)


def test_a_part_comes_back_as_it_was_written(made):
    made.write("heads", heads("cat", "dog"), shard=0, fingerprint="f")
    assert made.read("heads")["class_name"].to_list() == ["cat", "dog"]
    assert is_current(made.part("heads", 0), "f")
    assert not is_current(made.part("heads", 0), "g")


def test_the_file_names_its_schema(made):
    path = made.write("heads", heads("cat"), shard=0, fingerprint="f")
    assert pq.read_schema(path).metadata[b"schema_version"] == b"1"


def test_a_run_reopens_with_its_configuration(made):
    assert Run.open(made.path).config == CONFIG


def test_opening_nothing_says_how_to_start_one(tmp_path):
    with pytest.raises(DataError, match="discovery run"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pl.DataFrame({"class_name": ["a"]}), "missing or unknown columns"),
        (heads("a").with_columns(extra=1), "extra"),
        (heads("a", "a"), "not unique"),
        (heads("a").with_columns(class_name=pl.lit(None, pl.String)), "null"),
        (heads("a").with_columns(intercept=pl.lit("much")), "heads"),
    ],
)
def test_a_frame_that_breaks_the_contract_is_refused(frame, said):
    with pytest.raises(DataError, match=said):
        conform("heads", frame)


def test_nothing_half_written_stays(made, monkeypatch):
    def broken(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_module.pq, "write_table", broken)
    with pytest.raises(DataError, match="is full; free some space and run the same command"):
        made.write("heads", heads("a"), shard=0, fingerprint="f")
    assert made.parts("heads") == []
    assert list((made.path / "tables" / "heads").iterdir()) == []


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(run_module.Path, "mkdir", refused)
    with pytest.raises(DataError, match="choose another with --run-dir"):
        Run.create(tmp_path / "run", CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="choose another with --run-dir"):
        Run.create(tmp_path / "run", CONFIG)


def test_a_damaged_part_is_made_again_and_reading_it_says_so(made):
    path = made.write("heads", heads("a"), shard=0, fingerprint="f")
    path.write_bytes(path.read_bytes()[:40])
    assert not is_current(path, "f")
    with pytest.raises(DataError, match="damaged"):
        made.read("heads")


def test_fresh_empties_a_run_but_nothing_else(made, tmp_path):
    made.write("heads", heads("a"), shard=0, fingerprint="f")
    assert Run.create(made.path, CONFIG, fresh=True).parts("heads") == []
    other = tmp_path / "documents"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a run directory"):
        Run.create(other, CONFIG, fresh=True)
    assert (other / "thesis.txt").exists()


def stage(**changes) -> Stage:
    values = {
        "name": "rank",
        "table": "heads",
        "inputs": ("samples",),
        "config": lambda config: (config.rank,),
        "work": lambda run, shard: heads("a"),
    }
    return Stage(**values | changes)


def test_only_a_stages_own_settings_change_its_fingerprint(made):
    before = part_fingerprint(made, stage(), None)
    other = Run(made.path, make_config({"dataset": {"root": "x"}, "report": {"photos_per_cue": 9}}))
    own = Run(made.path, make_config({"dataset": {"root": "x"}, "rank": {"level": 0.2}}))
    assert part_fingerprint(other, stage(), None) == before
    assert part_fingerprint(own, stage(), None) != before


def test_inputs_and_outside_state_change_a_fingerprint(made):
    before = part_fingerprint(made, stage(), None)
    assert part_fingerprint(made, stage(), None, outside="a new model") != before
    made.write("samples", frame_of("samples", []), shard=0, fingerprint="other photos")
    assert part_fingerprint(made, stage(), None) != before


def test_a_stages_code_counts_with_the_modules_it_imports():
    assert code_hash("discovery.rank") != code_hash("discovery.associate")
    assert code_hash("discovery.rank") == code_hash("discovery.rank")


def test_a_changed_helper_changes_the_hash(tmp_path, monkeypatch):
    package = tmp_path / "discovery"
    package.mkdir()
    (package / "rank.py").write_text("from discovery.stats import adjust\n")
    (package / "stats.py").write_text("adjust = 1\n")
    monkeypatch.setattr(run_module, "__file__", str(package / "run.py"))
    before = code_hash.__wrapped__("discovery.rank")
    (package / "stats.py").write_text("adjust = 2\n")
    assert code_hash.__wrapped__("discovery.rank") != before
