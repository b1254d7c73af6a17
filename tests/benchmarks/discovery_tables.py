"""Rows of results → the tables of `docs/benchmarks.md`, as Markdown."""

import numpy as np
from scipy import stats

from tests.benchmarks.arena import OURS

EXHAUSTIVE = "exhaustive"
"""Stands as a method: the pipeline without looks and screening, on every photo of every class and cue."""
LEARNED = 0.2
FORWARDS = 0.2
"""Share of the exhaustive forwards that the budget may spend at most."""
NULLS = ("V = 0", "shuffled labels", "permuted presences")


def report(rows: list[dict]) -> str:
    """Returns the tables as Markdown."""
    everything, rows = rows, [row for row in rows if row["method"] != EXHAUSTIVE]
    learned = [row for row in rows if not row["null"] and row["cramers_v"] > 0]
    parts = ["### Learned strength τ", "", _taus(learned), ""]
    for arena in dict.fromkeys(row["arena"] for row in rows):
        parts += [f"### Planted cues, {arena}", "", _finding([r for r in learned if r["arena"] == arena]), ""]
    parts += ["### Nulls: runs that report anything", "", _nulls(rows), ""]
    parts += ["### Decoys and unused cues reported", "", _decoys(rows), ""]
    parts += ["### Adaptive budget against every photo of every pair", "", _budget(everything)]
    return "\n".join(parts)


def _taus(rows: list[dict]) -> str:
    lines = ["| arena | kind | V | settings | τ: least, quartiles, most | τ ≥ 0.2 |", "|---|---|---|---|---|---|"]
    ours = [row for row in rows if row["method"] == OURS]
    keys = sorted({(r["arena"], t["kind"], r["cramers_v"]) for r in ours for t in r["targets"]})
    for arena, kind, v in keys:
        chosen = [r for r in ours if (r["arena"], r["cramers_v"]) == (arena, v)]
        tau = np.array([t["tau"] for r in chosen for t in r["targets"] if t["kind"] == kind])
        spread = ", ".join(f"{q:.2f}" for q in np.quantile(tau, [0, 0.25, 0.5, 0.75, 1]))
        lines.append(f"| {arena} | {kind} | {v} | {len(tau)} | {spread} | {(tau >= LEARNED).sum()} |")
    return "\n".join(lines)


def _finding(rows: list[dict]) -> str:
    lines = [
        "| method | cues with τ ≥ 0.2 | reported | hit@1 | hit@5 | MRR | P@10 | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        targets = [t for row in mine for t in row["targets"] if t["tau"] >= LEARNED]
        p10 = [row["p10"] for row in mine if any(t["tau"] >= LEARNED for t in row["targets"])]
        if not targets:
            continue
        means = [np.mean([t[name] for t in targets]) for name in ("found", "hit1", "hit5", "rr")]
        cells = [*(f"{value:.3f}" for value in means), f"{np.mean(p10):.3f}"]
        seconds = np.median([row["seconds"] for row in mine])
        lines.append(f"| {method} | {len(targets)} | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines)


def _nulls(rows: list[dict]) -> str:
    kinds = [(arena, null) for arena in dict.fromkeys(r["arena"] for r in rows) for null in NULLS]
    lines = [
        "| method | " + " | ".join(f"{arena}, {null}" for arena, null in kinds) + " |",
        "|---|" + "---|" * len(kinds),
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for arena, null in kinds:
            mine = [r for r in rows if (r["method"], r["arena"], _null_of(r)) == (method, arena, null)]
            cells.append(_share([r["n_reported"] > 0 for r in mine]))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _budget(rows: list[dict]) -> str:
    """Compares each setting that was also run exhaustively with its adaptive run."""
    ours = {row["name"]: row for row in rows if row["method"] == OURS}
    pairs = [(ours[row["name"]], row) for row in rows if row["method"] == EXHAUSTIVE]
    if not pairs:
        return "Not run: --exhaustive 0."
    spent = [a["forwards"] / b["alone"] for a, b in pairs]
    shared = [a["forwards"] / b["forwards"] for a, b in pairs]
    same = [set(a["top"]) == set(b["top"]) for a, b in pairs]
    first = [a["top"][:1] == b["top"][:1] for a, b in pairs]
    common = [_overlap(set(a["top"]), set(b["top"])) for a, b in pairs]
    missed = "" if np.median(spent) <= FORWARDS else ", **missed**"
    less = "" if np.mean(same) >= 0.95 else ", **missed**"
    return "\n".join(
        [
            "| | measured | target |",
            "|---|---|---|",
            f"| share of the forwards spent: median, most | {np.median(spent):.3f}, {max(spent):.3f} "
            f"| ≤ {FORWARDS}{missed} |",
            f"| the same, one pass there too for all classes | {np.median(shared):.3f}, {max(shared):.3f} | |",
            f"| the same reported cues among the first ten | {_share(same)} | ≥ 0.95{less} |",
            f"| the same first cue | {_share(first)} | |",
            f"| reported by both, of those reported by either (mean) | {np.mean(common):.3f} | |",
        ]
    )


def _overlap(one: set, two: set) -> float:
    return len(one & two) / len(one | two) if one | two else 1.0


def _null_of(row: dict) -> str:
    return row["null"] or ("V = 0" if row["cramers_v"] == 0 else "")


def _decoys(rows: list[dict]) -> str:
    lines = [
        "| method | settings | decoy | unused | spurious rows that match nothing planted |",
        "|---|---|---|---|---|",
    ]
    planted = [row for row in rows if not row["null"]]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in planted if row["method"] == method]
        shares = [_share([row[name] for row in mine]) for name in ("decoy", "unused")]
        other = np.mean([row["n_nothing"] for row in mine])
        lines.append(f"| {method} | {len(mine)} | {' | '.join(shares)} | {other:.2f} per run |")
    return "\n".join(lines)


def _share(hits: list[bool]) -> str:
    """Returns a share with its upper 95 % bound (Clopper & Pearson 1934)."""
    if not hits:
        return "–"
    n, k = len(hits), sum(hits)
    upper = 1.0 if k == n else float(stats.beta.ppf(0.95, k + 1, n - k))
    return f"{k / n:.3f} ({k} of {n}, ≤ {upper:.3f})"
