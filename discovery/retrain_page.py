"""Tables of a repair → `repair.json` and `repair.html`: before and after, cue by cue, in one page without a network."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl

from discovery import __version__
from discovery.page import environment
from discovery.retrain_audit import CHOSEN, NULL, REPAIRED, REPLACED, STILL_USED, UNKNOWN, WORSE
from discovery.retrain_job import Job
from discovery.schema import SCHEMA_VERSION

TEMPLATE = Path(__file__).parent / "templates" / "repair.html.j2"
ORDER = (WORSE, REPLACED, STILL_USED, UNKNOWN, REPAIRED)
"""What a reader must see first."""


def render_page(job: Job) -> None:
    """Writes `repair.json`, and last `repair.html`."""
    facts = repair_facts(job)
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    content = facts | {"lead": lead(facts), "axis": _axis(facts["cues"]), "config_json": _config(job)}
    page = environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(content)
    job.after.write_text("repair.html", page)
    job.after.write_text("repair.json", text)


def repair_facts(job: Job) -> dict[str, Any]:
    """Returns what a machine reads of a repair; a number that is missing or infinite is None."""
    audits = job.after.read("audits")
    place = pl.col("outcome").replace_strict(ORDER, range(len(ORDER)), default=len(ORDER))
    rows = audits.sort(place, -pl.col("effect_before").abs(), "label", "cue_id", nulls_last=True)
    made = json.loads((job.after.path / "repaired.json").read_text(encoding="utf-8"))
    split = job.split
    judged = split.filter(pl.col("part") == "judged")
    fit_split = job.before.config.dataset.fit_split
    return _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "created_by": f"discovery {__version__}",
            "run": job.before.config.name,
            "method": job.config.method,
            "photos": {
                "fitted": int((split["part"] == "fitted").sum()),
                "judged": len(judged),
                "judged_by_split": dict(judged.group_by("split").len().sort("split").iter_rows()),
                "judged_beyond_fit_split": bool((judged["split"] != fit_split).any()),
            },
            "accuracy": json.loads((job.after.path / "accuracy.json").read_text(encoding="utf-8")),
            "left_of_effect": _left(audits),
            "cues": rows.to_dicts(),
            "model": made["model"],
            "facts": made["facts"],
        }
    )


def lead(facts: dict[str, Any]) -> str:
    """Says in a few sentences what the repair did."""
    chosen = [row for row in facts["cues"] if row["role"] == CHOSEN]
    counts = {name: sum(row["outcome"] == name for row in chosen) for name in (REPAIRED, STILL_USED, REPLACED, UNKNOWN)}
    said = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    worst = [facts["accuracy"][when]["worst_group"] for when in ("before", "after")]
    average = [facts["accuracy"][when]["average"] for when in ("before", "after")]
    text = f"Of {len(chosen)} cues of the model, after {facts['method']}: {said}."
    if None not in (*worst, *average):
        text += (
            f" Worst-group accuracy {100 * worst[0]:.1f} → {100 * worst[1]:.1f} %, average "
            f"{100 * average[0]:.1f} → {100 * average[1]:.1f} %."
        )
    null = [row for row in facts["cues"] if row["role"] == NULL]
    worse = [f"{row['label']}: {row['phrase']}" for row in null if row["outcome"] == WORSE]
    if worse:
        return f"The repair failed: the model now uses what it did not use before ({'; '.join(worse)}). {text}"
    return f"{text} None of {len(null)} unused cues became worse." if null else text


def _left(audits: pl.DataFrame) -> float | None:
    """Returns the median share of the chosen cues' net effects that is left, sign kept."""
    chosen = audits.filter((pl.col("role") == CHOSEN) & (pl.col("effect_before").abs() > 0))
    return (chosen["effect_after"] / chosen["effect_before"]).median()


def _axis(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the common ends of all interval plots."""
    names = ["effect_before", "effect_after"]
    ends = [row[f"{name}{end}"] for row in rows for name in names for end in ("", "_low", "_high")]
    ends = [end for end in ends if end is not None]
    low, high = min([-0.04, *ends]), max([0.04, *ends])
    return {"low": low - 0.04 * (high - low), "high": high + 0.04 * (high - low)}


def _config(job: Job) -> str:
    return job.before.config.model_dump_json(indent=2, include={"name", "seed", "dataset", "model", "rank", "retrain"})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
