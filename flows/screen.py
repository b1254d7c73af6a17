"""Progress, rankings and a user's mistakes → what a person reads on a terminal."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from rich.console import RenderableType
    from rich.table import Table

    from discovery.calibration import Calibration, Curve
    from discovery.corridor import Progress
    from discovery.grade import Grade
    from discovery.retrain import Outcome


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback for nobody."""


ONLOOKER: "ContextVar[Progress]" = ContextVar("onlooker", default=silent)
"""Who is told how far a flow is: a parameter of the flow would have to be JSON, a global of its module be pickled."""


def onlooker() -> "Progress":
    """Returns the progress callback of this run."""
    return ONLOOKER.get()


def show(*parts: "RenderableType") -> None:
    """Prints on the terminal, or 140 columns wide where there is none."""
    from rich.console import Console

    terminal = Console()
    screen = terminal if terminal.is_terminal else Console(width=140)
    for part in parts:
        screen.print(part)


@contextmanager
def progress_bars(*, quiet: bool = False) -> "Iterator[Progress]":
    """Yields a progress callback that draws one bar per stage on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield silent
        return
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TextColumn("parts"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        rows: dict[str, Any] = {}

        def draw(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bars.add_task(stage, total=max(total, 1))
            bars.update(rows[stage], total=max(total, 1), completed=done if total else 1)

        yield draw


def ranking(cues: "pl.DataFrame", *, per_class: int) -> "Table":
    """Returns the first cues of every class as a table: verdict, effect with its interval, q-value, and that by way."""
    from rich.table import Table

    columns = ("class", "rank", "cue", "kind", "verdict", "effect [interval]", "q", "removal", "paste")
    table = Table(
        *map(escape, columns), title="Cues", caption="removal, paste: the q-value of the effect by that way alone"
    )
    for name, rows in cues.sort("label", "rank").group_by("label", maintain_order=True):
        for row in rows.head(per_class).iter_rows(named=True):
            spread = f"{number(row['effect'])} [{number(row['effect_low'])}, {number(row['effect_high'])}]"
            first = str(name[0]) if row["rank"] == rows["rank"][0] else ""
            cells = (first, str(row["rank"]), row["phrase"], row["kind"], row["verdict"], spread)
            q_values = (number(row[name], signed=False) for name in ("q_value", "removal_q", "paste_q"))
            table.add_row(*map(escape, cells), *q_values)
        table.add_section()
    return table


def grading(grade: "Grade") -> "list[RenderableType]":
    """Returns what was planted and what became of it, what was wrongly reported, and both in one line."""
    from rich.table import Table

    planted = Table("planted", "kind", "role", "class", "V", "found", "reported as", "verdict", title="Planted")
    for row in grade.plants:
        right = row.found == (row.role == "cue")
        found = ("yes" if row.found else "no") + ("" if right else " (wrong)")
        cells = (row.phrase, row.kind, row.role, row.label or "–", number(row.cramers_v, signed=False), found)
        planted.add_row(*map(escape, (*cells, row.reported_as or "–", row.verdict or "–")))
    parts: list[RenderableType] = [planted]
    if grade.false_reports:
        wrong = Table("class", "cue", "rank", "effect", "why it is wrong", title="Wrongly reported")
        for label, phrase, rank, effect, why in grade.wrong.iter_rows():
            wrong.add_row(escape(label), escape(phrase), str(rank), number(effect), escape(why))
        parts.append(wrong)
    cues = grade.hits + grade.misses
    others = len(grade.plants) - cues
    parts.append(
        f"found {grade.hits} of {cues} planted cues; {grade.quiet} of {others} decoys and unseen cues left alone; "
        f"wrongly reported: {grade.false_reports}"
    )
    return parts


def repair(outcome: "Outcome") -> "list[RenderableType]":
    """Returns what became of each cue, and how right the model is before and after."""
    from rich.table import Table

    from discovery.retrain_page import lead

    table = Table(
        "class", "cue", "", "outcome", "net effect", "q", "accuracy gap", "worst group", title="Before → after"
    )
    for row in outcome.facts["cues"]:
        cells = (row["label"], row["phrase"], row["role"], row["outcome"])
        pairs = (f"{number(row[f'{name}_before'])} → {number(row[f'{name}_after'])}" for name in ("effect", "gap"))
        effect, gap = pairs
        q, worst = number(row["change_q"], signed=False), (row["worst_before"], row["worst_after"])
        table.add_row(*map(escape, cells), effect, q, gap, " → ".join(number(w, signed=False) for w in worst))
    return [table, escape(lead(outcome.facts))]


def calibration(made: "Calibration") -> "list[RenderableType]":
    """Returns what became of planted cues at every strength, what nulls reported, and both in a few lines."""
    from rich.table import Table

    from discovery.calibration import largest_missed, smallest_found

    strengths = [f"{point.strength:g}" for point in made.curves[0].points]
    table = Table("planted", "class", "AUC", "seen", *strengths, title="Planted effect → measured, by strength")
    for curve in made.curves:
        named = (f"{curve.phrase} ({curve.kind})", curve.label)
        points = (f"{_hundredths(p.planted)}→{_hundredths(p.effect)}{'*' if p.found else ''}" for p in curve.points)
        table.add_row(*map(escape, named), f"{curve.sensor_auc:.2f}", f"{curve.seen:.0%}", *points)
    runs, false = made.nulls.runs, made.nulls.false
    parts: list[RenderableType] = [
        table,
        "* reported as spurious. Strength: log-odds added where the sensor sees the cue; 0: the model as it is. "
        "AUC: how well the sensor sees it; near 0.5 nothing was planted. "
        "seen: in how many of its photos the run itself finds it.",
        f"smallest planted effect found: {_named(made, smallest_found)}; "
        f"largest missed: {_named(made, largest_missed)}",
        f"runs on permuted presences with a false report: {false} of {runs} (at most {made.nulls.share_at_most:.0%})",
    ]
    if made.already_there:
        rows = (f"{row['label']}: {row['phrase']} ({number(row['effect'])})" for row in made.already_there)
        parts.append(escape(f"already there, not planted: {'; '.join(rows)}"))
    if made.left_out:
        parts.append(escape(f"classes left out: {', '.join(made.left_out)}"))
    return parts


def _named(made: "Calibration", extreme: "Callable[[Sequence[Curve]], float | None]") -> str:
    """Writes an extreme over all planted cues, and which of them it is."""
    value = extreme(made.curves)
    names = [curve.phrase for curve in made.curves if value is not None and extreme([curve]) == value]
    return escape(f"{_hundredths(value)} ({names[0]})") if names else _hundredths(value)


def _hundredths(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 2) + 0.0:+.2f}"  # never -0.00


def number(value: float | None, *, signed: bool = True) -> str:
    """Writes a number for a person, a missing one as a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.3f}" if signed else f"{value:.3g}"


def plain_rows(frame: "pl.DataFrame") -> list[dict[str, Any]]:
    """Returns the rows as JSON can hold them: Python numbers, and None for NaN and infinity."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in frame.iter_rows(named=True)
    ]


def slug(name: str) -> str:
    """Returns a name in the lower-case letters, digits and dashes that Prefect takes as an artifact's key."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"


def escape(text: str) -> str:
    """Returns a text that rich prints as it is."""
    from rich.markup import escape

    return escape(text)
