"""What a multimodal LLM is asked about a run, and what it sees and makes up → what a person reads on a terminal."""

from typing import TYPE_CHECKING

from flows.screen import number

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from discovery.asking import Estimate

UNTIL = 0.05
"""Adjusted p-value up to which a gap is marked."""


def questions(made: "Estimate") -> "Table":
    """Returns what would be asked and what it costs at most."""
    from rich.table import Table

    table = Table("probe", "questions", title="To be asked at most")
    for probe, count in made.questions.items():
        table.add_row(probe, f"{count:,}")
    table.add_section()
    table.add_row("in all", f"{made.total:,}")
    table.add_row("photos", f"{made.photos:,}")
    table.add_row("per cue", f"{made.per_cue:,.0f}")
    table.add_row("per photo, as the model of a run", f"{made.per_photo_in_run:,}")
    if made.cost is not None:
        table.add_row("tokens in, estimated", f"{made.cost.tokens_in:,}")
        table.add_row("tokens out, at most", f"{made.cost.tokens_out:,}")
        unknown = "unknown; set model.mllm.price_in and price_out"
        table.add_row("money", unknown if made.money is None else f"{made.money:.2f}")
    return table


def perception(found: "pl.DataFrame") -> "Table":
    """Returns rates with the cue and without it, over all wordings; * where the adjusted p-value is at most 0.05."""
    from rich.table import Table

    columns = (
        "class",
        "cue",
        "probe",
        "with",
        "without",
        "gap [interval]",
        "q",
        "log-odds gap",
        "q",
        "unclear",
        "agree",
    )
    table = Table(*columns, title="Seen and made up")
    rows = found.filter(found["wording"] == "all")
    for row in rows.iter_rows(named=True):
        spread = f"{number(row['gap'])} [{number(row['gap_low'])}, {number(row['gap_high'])}]"
        marks = ["*" if (row[q] is not None and row[q] <= UNTIL) else "" for q in ("gap_q", "logit_q")]
        table.add_row(
            row["label"],
            row["phrase"],
            row["probe"],
            number(row["rate_with"], signed=False),
            number(row["rate_without"], signed=False),
            spread,
            number(row["gap_q"], signed=False) + marks[0],
            number(row["logit_gap"]),
            number(row["logit_q"], signed=False) + marks[1],
            f"{row['n_answers_unclear']}/{row['n_answers']}",
            number(row["consistency"], signed=False),
        )
    return table
