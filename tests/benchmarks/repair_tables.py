"""Rows of the benchmark of repairs → its tables, as Markdown."""

from collections.abc import Callable

import numpy as np

ERM = "as it is"
LEARNED = 0.2
"""Learned strength from which a model counts."""
TITLES = {"digits": "Planted square on digits", "photos": "Five planted kinds on photos"}


def report(rows: list[dict]) -> str:
    """Returns the tables as Markdown."""
    parts = []
    for arena, v in sorted({(row["arena"], row["V"]) for row in rows if row["arena"] in TITLES}):
        mine = [row for row in rows if (row["arena"], row.get("V")) == (arena, v)]
        counted, weak = [row for row in mine if row["tau"] >= LEARNED], _models(mine, lambda row: row["tau"] < LEARNED)
        tau = np.array([row["tau"] for row in counted if row["method"] == ERM])
        missed = _models(counted, lambda row: not row["discovered"])
        parts += [f"### {TITLES[arena]}, V = {v}", ""]
        told = f"{len(tau)} model(s), learned strength τ {_mean(tau)}; {weak} more left out (τ < {LEARNED})"
        parts += [f"{told}; in {missed} nothing was found to repair.", ""]
        parts += [_table(counted, ("worst", "average", "lost", "left_planted", "left", "nulls_worse")), ""]
    bar = [row for row in rows if row["arena"] == "bar"]
    if bar:
        own = {row["seed"]: row["accuracy"] for row in bar if row["method"] == ERM}
        bar = [row | {"gain": row["accuracy"] - own[row["seed"]]} for row in bar]
        parts += [
            "### BAR: fitted on training photos, judged by test photos",
            "",
            _table(bar, ("accuracy", "gain", "worst")),
        ]
    return "\n".join(parts).rstrip()


def _models(rows: list[dict], wanted: Callable[[dict], bool]) -> int:
    return sum(row["method"] == ERM and wanted(row) for row in rows)


HEADINGS = {
    "worst": "worst group, %",
    "average": "average, %",
    "accuracy": "accuracy, %",
    "gain": "above as it is, same draw",
    "lost": "average lost, points",
    "left_planted": "planted cue: share of the net effect left",
    "left": "all found: share left",
    "nulls_worse": "null cues worse, of all tried",
}


def _table(rows: list[dict], columns: tuple[str, ...]) -> str:
    lines = ["| repair | groups | models | " + " | ".join(HEADINGS[name] for name in columns) + " |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for method, groups in dict.fromkeys((row["method"], row["groups"]) for row in rows if row["discovered"]):
        mine = [row for row in rows if (row["method"], row["groups"]) == (method, groups) and row["discovered"]]
        own = {row["seed"]: row.get("average") for row in rows if row["method"] == ERM}
        mine = [row | {"lost": own[row["seed"]] - row["average"]} if "average" in row else row for row in mine]
        lines.append(
            f"| {method} | {groups} | {len(mine)} | " + " | ".join(_cell(name, mine) for name in columns) + " |"
        )
    return "\n".join(lines)


def _cell(name: str, rows: list[dict]) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return "–"
    if name == "nulls_worse":
        return f"{sum(values)} of {sum(row['nulls'] for row in rows if 'nulls' in row)}"
    share = name.startswith("left")
    return _mean(np.array(values) * (1 if share else 100), 2 if share else 1)


def _mean(values: np.ndarray, digits_after: int = 2) -> str:
    if len(values) < 2:
        return f"{values.mean():.{digits_after}f}"
    return f"{values.mean():.{digits_after}f} ± {values.std(ddof=1):.{digits_after}f}"
