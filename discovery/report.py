"""Cues and example photos → `report.html`, `cues.json` and `cues.csv`."""

import csv
import hashlib
import io
import json
import math
from typing import Any

import polars as pl

from discovery import __version__
from discovery.config import ModelConfig, RunConfig
from discovery.page import TEMPLATE, render_page
from discovery.run import Run, Stage
from discovery.schema import SCHEMA_VERSION

FILES = ("report.html", "cues.json", "cues.csv")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
FIRST_COLUMNS = (
    "label",
    "phrase",
    "kind",
    "rank",
    "verdict",
    "reason",
    "effect",
    "effect_low",
    "effect_high",
)


def render_report(run: Run) -> str:
    """Renders `report.html`.

    Raises:
        DataError: a table is missing, or a photo that the page shows is.
    """
    counts = count_photos(run)
    return render_page(run, run_facts(run, counts), counts)


def render_json(run: Run) -> str:
    """Renders `cues.json`: strict JSON, a missing or infinite number is null, numbers have six digits."""
    facts = run_facts(run, count_photos(run))
    content = {"schema_version": SCHEMA_VERSION, "run": facts, "cues": cue_records(run.read("cues"))}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def render_csv(run: Run) -> str:
    """Renders `cues.csv`, one row per class and cue.

    A text that begins with = + - @ (or a tab or line end) gets a leading apostrophe, so that a spreadsheet
    shows it instead of running it as a formula; `cues.json` has the texts as they are.
    """
    cues = run.read("cues")
    file = io.StringIO()
    writer = csv.DictWriter(file, _columns(cues), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _guarded(value) for name, value in row.items()} for row in cue_records(cues))
    return file.getvalue()


def cue_records(cues: pl.DataFrame) -> list[dict[str, Any]]:
    """Returns the cues as plain records, by class and rank, the telling columns first."""
    ordered = cues.sort("label", "rank", "cue_id", nulls_last=True).select(_columns(cues))
    return [{name: _plain(value) for name, value in row.items()} for row in ordered.iter_rows(named=True)]


def count_photos(run: Run) -> pl.DataFrame:
    """Counts the photos of each label: all, audited, and audited and right; one shard in memory at a time."""
    counts = []
    for shard in range(len(run.parts("samples"))):
        samples = run.read("samples", shard=shard, columns=["sample_id", "label", "audit"])
        correct = run.read("predictions", shard=shard, columns=["sample_id", "correct"])
        audited = pl.col("audit").fill_null(False)
        counts.append(
            samples.join(correct, on="sample_id", how="left")
            .group_by("label")
            .agg(images=pl.len(), audited=audited.sum(), right=(audited & pl.col("correct")).sum())
        )
    return pl.concat(counts).group_by("label").sum().sort("label")


def run_facts(run: Run, counts: pl.DataFrame) -> dict[str, Any]:
    """Returns what names a run and its model, with the model's accuracy on the audited photos."""
    audited = int(counts["audited"].sum())
    return {
        "name": run.config.name,
        "created_by": f"discovery {__version__}",
        "model": _model(run.config.model),
        "intervention_possible": run.config.model.can_be_asked,
        "dataset": run.config.dataset.manifest or run.config.dataset.root,
        "images": int(counts["images"].sum()),
        "audited": audited,
        "accuracy": _plain(counts["right"].sum() / audited) if audited else None,
    }


def _columns(cues: pl.DataFrame) -> list[str]:
    return [*FIRST_COLUMNS, *(name for name in cues.columns if name not in FIRST_COLUMNS)]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _guarded(value: Any) -> Any:
    runs = isinstance(value, str) and value.startswith(FORMULA_STARTS)
    return f"'{value}" if runs else value


def _model(model: ModelConfig) -> str:
    names = {"probe": f"probe on {model.backbone}", "python": str(model.callable), "http": str(model.url)}
    names["mllm"] = str(model.mllm.checkpoint or model.mllm.llm)
    return names.get(model.kind, f"{model.kind}: {model.path}" if model.kind != "torch" else str(model.path))


def _work(run: Run, _shard: int | None) -> pl.DataFrame:
    texts = (render_report(run), render_json(run), render_csv(run))
    sizes = [run.write_text(name, text).stat().st_size for name, text in zip(FILES, texts, strict=True)]
    return pl.DataFrame({"file": FILES, "bytes": sizes})


def _template_state(_: RunConfig) -> str:
    return hashlib.sha256(TEMPLATE.read_bytes()).hexdigest()


STAGE = Stage(
    name="report",
    table="reports",
    inputs=(
        "cues",
        "effects",
        "associations",
        "presences",
        "regions",
        "samples",
        "predictions",
        "attributes",
    ),
    config=lambda c: (c.report, c.rank, c.ablate, c.export, c.name, c.dataset.root),
    work=_work,
    files=FILES,
    outside=_template_state,
)
