"""Prints who finds planted cues, and who reports findings where there are none: this pipeline beside its peers.

Usage: python -m tests.benchmarks.discovery_quality --photos FOLDER [--work FOLDER] [--seeds 5] [--nulls 100]
FOLDER holds real photos for the backgrounds of the second arena. Every model's result is kept in FOLDER/results.jsonl
of the work folder, so that an interrupted benchmark goes on; the tables are printed, and written with --out.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from tests.benchmarks import arena_digits, arena_photos, clustering, digits_pool
from tests.benchmarks.arena import OURS, Setting, judge_setting

STRENGTHS = (0.7, 0.8, 0.9, 0.95, 0.99)
LEARNED = 0.2
NULLS = ("V = 0", "shuffled labels", "permuted presences")
BEGIN, END = "<!-- discovery_quality: begin -->", "<!-- discovery_quality: end -->"


def main() -> None:
    options = _options()
    results = options.work / "results.jsonl"
    done = _read(results)
    for name, make, peers in _agenda(options):
        if name not in {row["name"] for row in done}:
            rows = _judge(make(), options.work, peers=peers)
            done += rows
            with results.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, default=_plain) + "\n" for row in rows)
            print(f"{name}: {_brief(rows[0])}", flush=True)
        if options.exhaustive and _compared(name, options):
            done += _exhaust(make, [row for row in done if row["name"] == name], results, options.work)
    text = report(done)
    if options.clustering:
        text += "\n\n" + _clustering(options.work)
    print(text)
    if options.out:
        _write_between(options.out, text)


def _judge(setting: Setting, work: Path, *, peers: bool) -> list[dict]:
    with tempfile.TemporaryDirectory(dir=work) as folder:
        return judge_setting(setting, Path(folder) / "run", peers=peers)


EXHAUSTIVE = "exhaustive"
"""Stands as a method: the pipeline without looks and screening, on every photo of every class and cue."""


def _compared(name: str, options: argparse.Namespace) -> bool:
    return name.startswith("digits  ") and int(name.rpartition("=")[2]) < options.exhaustive


def _exhaust(make, known: list[dict], results: Path, work: Path) -> list[dict]:
    if any(row["method"] == EXHAUSTIVE for row in known):
        return []
    setting = make()
    everything = {"looks": 1, "screen_p": 1.0, "untied_images": 1}
    config = setting.config | {"ablate": setting.config["ablate"] | everything}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        row = judge_setting(replace(setting, config=config), Path(folder) / "run", peers=False)[0]
    row |= {"method": EXHAUSTIVE}
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, default=_plain) + "\n")
    return [row]


def _clustering(work: Path) -> str:
    folder = work / "digits"
    table = clustering.compare(digits_pool.make_pool(folder), folder)
    return "\n".join(["### Clustering", "", "| | |", "|---|---|", table, clustering.memory(1_000_000)])


def _agenda(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Setting], bool]]:
    """Yields (name, maker of the setting, whether peers are asked too), a seed of every kind after the other."""
    arenas: dict[str, Callable[[], Callable[..., Setting]]] = {"digits": lambda: _digits(options.work / "digits")}
    if options.photos:
        arenas["photos"] = lambda: _photos(options.work / "photos", options.photos)
    opened: dict[str, Callable[..., Setting]] = {}

    def entry(arena: str, v: float, seed: int, null: str = "") -> tuple[str, Callable[[], Setting], bool]:
        def make() -> Setting:
            if arena not in opened:
                opened[arena] = arenas[arena]()
            return opened[arena](v, seed, null)

        asked = options.peer_nulls if v == 0 or null else max(options.seeds, options.photo_seeds)
        return f"{arena} {null} V={v} seed={seed}", make, seed < asked

    for seed in range(max(options.seeds, options.nulls, options.photo_seeds, options.photo_nulls)):
        for arena in arenas:
            seeds, nulls = (
                (options.seeds, options.nulls) if arena == "digits" else (options.photo_seeds, options.photo_nulls)
            )
            if seed < seeds:
                yield from (entry(arena, v, seed) for v in STRENGTHS)
            if seed < nulls:
                yield entry(arena, 0.0, seed)
                yield entry(arena, 0.0, seed, "shuffled labels")
                yield entry(arena, 0.9, seed, "permuted presences")


def _digits(folder: Path) -> Callable[..., Setting]:
    folder.mkdir(parents=True, exist_ok=True)
    return partial(arena_digits.setting, digits_pool.make_pool(folder), folder)


def _photos(folder: Path, photos: Path) -> Callable[..., Setting]:
    folder.mkdir(parents=True, exist_ok=True)
    return partial(arena_photos.setting, arena_photos.make_pool(folder, photos))


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
    spent = [a["forwards"] / b["forwards"] for a, b in pairs]
    same = [set(a["top"]) == set(b["top"]) for a, b in pairs]
    first = [a["top"][:1] == b["top"][:1] for a, b in pairs]
    shared = [len(set(a["top"]) & set(b["top"])) / max(1, len(set(a["top"]) | set(b["top"]))) for a, b in pairs]
    return "\n".join(
        [
            "| | measured | target |",
            "|---|---|---|",
            f"| share of the forwards spent: median, most | {np.median(spent):.3f}, {max(spent):.3f} | ≤ 0.2 |",
            f"| the same reported cues among the first ten | {_share(same)} | ≥ 0.95 |",
            f"| the same first cue | {_share(first)} | |",
            f"| reported by both, of those reported by either (mean) | {np.mean(shared):.3f} | |",
        ]
    )


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


def _brief(row: dict) -> str:
    taus = " ".join(f"{t['kind']} τ={t['tau']:.2f} {'hit' if t['hit1'] else 'miss'}" for t in row["targets"])
    return f"{row['n_reported']} reported, {row['forwards']} forwards, {row['seconds']:.1f} s; {taus}"


def _read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else list(value)


def _write_between(file: Path, text: str) -> None:
    old = file.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of real photos; without it only the digits are tried")
    parser.add_argument("--work", type=Path, default=Path("runs/discovery_quality"))
    parser.add_argument("--seeds", type=int, default=5, help="models per strength, digits")
    parser.add_argument("--nulls", type=int, default=100, help="models per kind of null, digits")
    parser.add_argument("--photo-seeds", type=int, default=2, help="models per strength, photos")
    parser.add_argument("--photo-nulls", type=int, default=20, help="models per kind of null, photos")
    parser.add_argument(
        "--peer-nulls", type=int, default=30, help="of the null models, those that peers are asked about"
    )
    parser.add_argument("--exhaustive", type=int, default=2, help="seeds of the digits that are also run exhaustively")
    parser.add_argument("--clustering", action="store_true", help="also time clustering, and measure its memory")
    parser.add_argument("--out", type=Path, help="Markdown file whose marked part is replaced")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        shutil.rmtree(options.work)
        options.work.mkdir(parents=True)
    return options


if __name__ == "__main__":
    main()
