"""Prints who finds planted cues, and who reports findings where there are none: this pipeline beside its peers.

Usage: python -m tests.benchmarks.discovery_quality --photos FOLDER [--work FOLDER] [--seeds 5] [--nulls 100]
FOLDER holds real photos for the backgrounds of the second arena. Every setting's result is kept in the work folder with
a mark of the code that made it, so that an interrupted benchmark goes on and a changed pipeline is asked anew. Several
processes share the work with --part 0/2 and --part 1/2, each on a core of its own (taskset -c 0 python …): two
processes of two threads on two cores take ten times as long. The tables are printed, and written with --out.
"""

import argparse
import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl

from discovery import cluster
from discovery.run import Run
from discovery.trials import PASTE, UNSEEN
from tests.benchmarks import arena_digits, arena_photos, clustering, digits_pool, photos_pool
from tests.benchmarks.arena import OURS, Setting, ask_peers, judge_setting
from tests.benchmarks.discovery_tables import EXHAUSTIVE, report
from tests.benchmarks.results import Results, code_marks, mark_of, mark_of_files

STRENGTHS = (0.7, 0.8, 0.9, 0.95, 0.99)
NULLS = {"v0": (0.0, ""), "shuffled": (0.0, "shuffled labels"), "permuted": (0.9, "permuted presences")}
BEGIN, END = "<!-- discovery_quality: begin -->", "<!-- discovery_quality: end -->"


def main() -> None:
    options = _options()
    number, n_parts = map(int, options.part.split("/"))
    results = Results(options.work, code_marks())
    print(f"{len(results.rows)} results kept; {results.n_stale} of an earlier code are left out", flush=True)
    for place, entry in enumerate(_agenda(options)):
        if place % n_parts == number and not options.tables:
            _judge(entry, results, options)
    text = report(results.rows)
    if options.clustering:
        text += "\n\n" + _clustering(options.work)
    print(text)
    if options.out:
        _write_between(options.out, text)


@dataclass(frozen=True)
class Entry:
    """A setting to be judged: its name, how it is made, and by whom beside the pipeline."""

    name: str
    make: Callable[[], Setting]
    peers: bool
    exhaustive: bool


def _judge(entry: Entry, results: Results, options: argparse.Namespace) -> None:
    """Asks everyone who has not yet answered about a setting."""
    results.reload()
    ours = not results.has(entry.name, OURS)
    peers = entry.peers and not results.has(entry.name, "random")
    exhaustive = entry.exhaustive and not results.has(entry.name, EXHAUSTIVE)
    if not (ours or peers or exhaustive):
        return
    setting = entry.make()
    if ours:
        results.add([row := _run(setting, options.work)], "ours")
        print(f"{entry.name}: {_brief(row)}", flush=True)
    if peers:
        results.add(ask_peers(setting), "peers")
    if exhaustive:
        config = setting.config | {"ablate": setting.config["ablate"] | EVERYTHING}
        row = _run(replace(setting, config=config), options.work) | {"method": EXHAUSTIVE}
        results.add([row], "ours")
        print(f"{entry.name}, exhaustive: {_brief(row)}", flush=True)


EVERYTHING = {"looks": 1, "screen_p": 1.0, "untied_images": 1}


def _run(setting: Setting, work: Path) -> dict:
    """Returns the pipeline's row, with the forwards that its trials had cost if no pass answered for two classes."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        row = judge_setting(setting, Path(folder) / "run")
        tried = Run.open(Path(folder) / "run").read("effects", columns=["way", "intervention", "n_forwards"])
    # Only what is pasted answers for several classes; two swaps are four passes, and a dose is one, as it is there too.
    alone = pl.when(pl.col("way") == PASTE, pl.col("intervention") != UNSEEN).then(2).otherwise("n_forwards")
    return row | {"alone": int(tried.select(alone.sum()).item())}


def _clustering(work: Path) -> str:
    folder = digits_folder(work)
    table = clustering.compare(digits_pool.make_pool(folder), folder)
    return "\n".join(["### Clustering", "", "| | |", "|---|---|", table, clustering.memory(1_000_000)])


def _agenda(options: argparse.Namespace) -> Iterator[Entry]:
    """Yields what is to be judged, a seed of every kind after the other."""
    arenas: dict[str, Callable[[], Callable[..., Setting]]] = {"digits": lambda: _digits(options.work)}
    counts = {"digits": (options.seeds, options.nulls)}
    if options.photos:
        arenas["photos"] = lambda: _photos(options.work, options.photos)
        counts["photos"] = (options.photo_seeds, options.photo_nulls)
    opened: dict[str, Callable[..., Setting]] = {}

    def entry(arena: str, v: float, seed: int, null: str = "") -> Entry:
        def make() -> Setting:
            if arena not in opened:
                opened[arena] = arenas[arena]()
            return opened[arena](v, seed, null)

        asked = options.peer_nulls if v == 0 or null else counts[arena][0]
        exhaustive = arena == "digits" and not null and seed < options.exhaustive
        return Entry(f"{arena} {null} V={v} seed={seed}", make, seed < asked, exhaustive)

    for seed in range(max(n for pair in counts.values() for n in pair)):
        for arena, (seeds, nulls) in counts.items():
            if seed < seeds:
                yield from (entry(arena, v, seed) for v in STRENGTHS)
            if seed < nulls:
                yield from (entry(arena, v, seed, null) for kind, (v, null) in NULLS.items() if kind in options.kinds)


def _digits(work: Path) -> Callable[..., Setting]:
    folder = digits_folder(work)
    return partial(arena_digits.setting, digits_pool.make_pool(folder), folder)


def _photos(work: Path, photos: Path) -> Callable[..., Setting]:
    """Opens the pool of photos; its run marks its own tables."""
    folder = _made(work / f"photos-{mark_of_files('photos_pool.py', '../../discovery/planted_cues.py')}")
    return partial(arena_photos.setting, photos_pool.make_pool(folder, photos))


def digits_folder(work: Path) -> Path:
    """Returns where the digits and their models are kept, for the code that draws, clusters and trains them."""
    clustered = mark_of(map(inspect.getsource, (cluster.cluster, cluster.Clustering, cluster.cosine_silhouette)))
    return _made(work / f"digits-{mark_of_files('digits_pool.py', 'digits_model.py')}-{clustered}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _brief(row: dict) -> str:
    taus = " ".join(f"{t['kind']} τ={t['tau']:.2f} {'hit' if t['hit1'] else 'miss'}" for t in row["targets"])
    return f"{row['n_reported']} reported, {row['forwards']} forwards, {row['seconds']:.1f} s; {taus}"


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
    parser.add_argument("--kinds", nargs="+", choices=list(NULLS), default=list(NULLS), help="kinds of null")
    parser.add_argument(
        "--peer-nulls", type=int, default=30, help="of the null models, those that peers are asked about"
    )
    parser.add_argument("--exhaustive", type=int, default=2, help="seeds of the digits that are also run exhaustively")
    parser.add_argument("--clustering", action="store_true", help="also time clustering, and measure its memory")
    parser.add_argument("--part", default="0/1", help="which share of the settings this process judges, as 0/2")
    parser.add_argument("--tables", action="store_true", help="judge nothing, only print the tables of what is there")
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
