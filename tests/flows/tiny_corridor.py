"""A corridor of five small stages in place of the real one, so that the shell is tested by itself and in seconds."""

import time
from pathlib import Path

import polars as pl

from discovery import corridor
from discovery.errors import DataError
from discovery.run import Run, Stage
from discovery.schema import TABLES


def install() -> None:
    """Puts the small corridor in the place of the real one, in this process."""
    corridor.CORRIDOR = STAGES
    corridor.STAGES.clear()
    corridor.STAGES.update({stage.name: stage for stage in STAGES})


def write_config(folder: Path) -> Path:
    """Writes a configuration for it: two parts of two samples."""
    path = folder / "tiny.toml"
    path.write_text('[dataset]\nroot = "photos"\n[compute]\nshard_size = 2\n')
    return path


def break_with(run_dir: Path, fault: str) -> None:
    """Makes the second part of stage predict fail in this way, until `mend`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "fault").write_text(fault)


def mend(run_dir: Path) -> None:
    (run_dir / "fault").unlink()


def made(run_dir: Path) -> list[str]:
    """Returns the parts made so far, in the order of their making, over all attempts."""
    file = run_dir / "made"
    return file.read_text().split() if file.exists() else []


def frame(table: str, rows: list[dict]) -> pl.DataFrame:
    """Builds a table from rows that name only some of its columns."""
    return pl.DataFrame([{name: row.get(name) for name in TABLES[table].names} for row in rows])


def _ingest(run: Run, _: int | None) -> pl.DataFrame:
    return frame("samples", [{"sample_id": f"s{i}", "uri": f"s{i}.jpg", "label": "a"} for i in range(4)])


def _predict(run: Run, shard: int | None) -> pl.DataFrame:
    fault = run.path / "fault"
    if shard == 1 and fault.exists():
        _fail(run, fault.read_text())
    _note(run, f"predict-{shard}")
    ids = run.read("samples", shard=shard)["sample_id"]
    return frame("predictions", [{"sample_id": i, "predicted": "a", "prob_label": 0.5} for i in ids])


def _fail(run: Run, fault: str) -> None:
    _note(run, fault)
    if fault == "sleep":
        time.sleep(60)
    if fault == "data":
        raise DataError("photo 's2.jpg' is\nbroken; replace it")
    if fault == "stumble" and made(run.path).count(fault) == 1:
        raise OSError(5, "Input/output error")
    if fault == "bug":
        raise ZeroDivisionError("a bug of ours")
    if fault == "interrupt":
        raise KeyboardInterrupt


def _rank(run: Run, _: int | None) -> pl.DataFrame:
    _note(run, "rank")
    numbers = {"effect_low": 0.1, "effect_high": float("nan"), "q_value": 0.01}
    words = {"kind": "background", "reason": "because", "verdict": "spurious"}
    rows = [
        {"label": "a", "cue_id": f"c{rank}", "phrase": f"rock {rank} [bold]", "rank": rank, "effect": 0.5 / rank}
        for rank in range(1, 6)
    ]
    return frame("cues", [{**row, **numbers, **words} for row in rows])


def _presence(run: Run, _: int | None) -> pl.DataFrame:
    ids = run.read("samples")["sample_id"]
    return frame("presences", [{"cue_id": "c1", "sample_id": i, "phrase": "rock 1", "score": 1.0} for i in ids])


def _report(run: Run, _: int | None) -> pl.DataFrame:
    _note(run, "report")
    run.write_text("report.html", "<html></html>")
    return frame("reports", [{"file": "report.html", "bytes": 13}])


def _note(run: Run, text: str) -> None:
    with (run.path / "made").open("a") as file:
        file.write(f"{text}\n")


STAGES = (
    Stage("ingest", "samples", (), lambda c: (c.dataset,), _ingest),
    Stage("predict", "predictions", ("samples",), lambda c: (c.model,), _predict, sharded=True),
    Stage("presence", "presences", ("samples",), lambda c: (c.presence,), _presence),
    Stage("rank", "cues", ("predictions",), lambda c: (c.rank,), _rank),
    Stage("report", "reports", ("cues",), lambda c: (c.report,), _report),
)
