"""A configuration → the attributes of every class and what they cost, or what they would cost, on a terminal."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discovery.backends.llm_budget import Cost, money
from discovery.config import ProposeConfig, RunConfig
from discovery.corridor import Progress, corridor, make
from discovery.run import Run

if TYPE_CHECKING:
    import polars as pl
    from rich.console import RenderableType
    from rich.table import Table

MARKS = {"exists_without": "without", "is_part": "part", "nearly_always": "always", "implies": "implies"}


def propose(run: Run, progress: Progress) -> Run:
    """Makes what is missing up to the table `attributes`; predictions only where the proposer is told of them."""
    wanted = {"ingest", "propose"} | ({"fit", "predict"} if run.config.propose.evidence != "none" else set())
    for stage in corridor("propose"):
        if stage.name in wanted:
            make(run, stage, progress)
    return run


def proposals(run: Run) -> "list[RenderableType]":
    """Returns the attributes of a run and, where a server was asked, what its answers cost."""
    from discovery.propose import COSTS_FILE

    parts: list[RenderableType] = [_attributes(run.read("attributes"))]
    costs = run.path / COSTS_FILE
    if costs.is_file():
        kept = json.loads(costs.read_text(encoding="utf-8"))
        parts += _costs(kept["steps"], kept["model"])
    return parts


def dry_run(config: RunConfig, run_dir: Path | None) -> "list[RenderableType]":
    """Returns what proposals would cost, without a call, a key, a run folder or a decoded photo."""
    from rich.table import Table

    from discovery.listing import list_samples

    labels = sorted(list_samples(config.dataset)["label"].unique())
    settings = config.propose
    if settings.proposer != "openai":
        return [f"{len(labels)} classes; the proposer {settings.proposer!r} asks no server and costs nothing"]
    from discovery.backends.llm_estimate import estimate
    from discovery.backends.proposer_openai import computed_phrases, known_phrases

    cache = settings.cache or str((run_dir or Path("runs") / config.name).parent / "llm-cache")
    known = known_phrases(computed_phrases()) if settings.computed else ()
    table = Table("step", "on disk", "calls", "tokens in", "tokens out", "money", title=f"{len(labels)} classes")
    found = estimate(labels, settings, known, cache)
    for step, one in found.items():
        kept = "?" if one.on_disk is None else str(one.on_disk)
        table.add_row(*_row(step, kept, one.expected, one.at_most, settings))
    expected, at_most = (sum((getattr(one, end) for one in found.values()), Cost()) for end in ("expected", "at_most"))
    table.add_row(*_row("total", "", expected, at_most, settings))
    return [table, _remarks(settings)]


def _remarks(settings: ProposeConfig) -> str:
    told = "tokens are estimated: four characters each, 85 per photo; repairs cost extra, answers on disk nothing"
    if settings.price_in is None or settings.price_out is None:
        return f"{told}\nthe price is unknown: set propose.price_in and propose.price_out, per million tokens"
    return told


def _row(step: str, on_disk: str, expected: Cost, at_most: Cost, settings: ProposeConfig) -> list[str]:
    out = f"{expected.tokens_out:,} – {at_most.tokens_out:,}"
    spent = " – ".join(dict.fromkeys(_money(money(cost, settings)) for cost in (expected, at_most)))
    return [step, on_disk, f"{expected.calls:,}", f"{expected.tokens_in:,}", out, spent]


def _attributes(attributes: "pl.DataFrame") -> "Table":
    """Returns one row per attribute; words of a model are shown as they are, never as markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table("class", "cue", "kind", "source", *MARKS.values(), "why", title="Attributes")
    for name, rows in attributes.group_by("label", maintain_order=True):
        for number, row in enumerate(rows.iter_rows(named=True)):
            marks = ({None: "", True: "yes", False: "no"}[row[mark]] for mark in MARKS)
            cells = (str(name[0]) if number == 0 else "", row["phrase"], row["kind"], row["source"], *marks)
            table.add_row(*map(Text, (*cells, row["rationale"])))
        table.add_section()
    return table


def _costs(steps: Mapping[str, Mapping[str, Any]], model: str) -> "list[RenderableType]":
    from rich.table import Table
    from rich.text import Text

    counts = ("asked", "cached", "calls", "repaired", "retried", "unanswered", "tokens_in", "tokens_out")
    table = Table("step", *(name.replace("_", " ") for name in counts), "money", title=Text(f"What {model} was asked"))
    rows = [*steps.items(), ("total", {name: sum(step[name] for step in steps.values()) for name in counts})]
    known = [step["money"] for step in steps.values()]
    rows[-1][1]["money"] = None if None in known else sum(known)
    for step, cost in rows:
        table.add_row(step, *(f"{cost[name]:,}" for name in counts), _money(cost["money"]))
    return [table, *(["the price is unknown: set propose.price_in and propose.price_out"] if None in known else [])]


def _money(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
