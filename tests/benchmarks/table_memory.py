"""A finished run → peak memory of the stages that read tables whole, on copies of its photos up to a wanted number.

Usage: python -m tests.benchmarks.table_memory RUN [--photos 10000 100000]
Every copy of a photo keeps its regions, clusters, prediction and label under a name of its own, so that the tables grow
as those of a larger dataset would. Each stage, with its default settings, runs in a process of its own; what it needs
is made by the one before.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from discovery.config import make_config
from discovery.corridor import STAGES, work
from discovery.run import Run, frame_of
from tests.benchmarks.clustering import peak_gib

MEASURED = ("presence", "associate", "rank", "export")
COPIED = ("samples", "predictions", "regions", "clusters", "effects")
KEYS = ("sample_id", "region_id", "source_id")


def main() -> None:
    options = _options()
    if options.stage:
        start = time.perf_counter()
        work(Run.open(options.run), STAGES[options.stage], 0)
        print(f"{peak_gib():.2f} GiB, {time.perf_counter() - start:.0f} s")
        return
    for wanted in options.photos:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            n = _grow(options.run, Path(folder) / "run", wanted)
            measured = MEASURED if Run(options.run, None).parts("effects") else MEASURED[:2]
            for stage in measured:
                command = [sys.executable, "-m", "tests.benchmarks.table_memory", f"{folder}/run", "--stage", stage]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                print(f"{n} photos, {stage}: {done.stdout.strip() or done.stderr.splitlines()[-1]}", flush=True)


def _grow(source: Path, target: Path, wanted: int) -> int:
    """Writes copies of a run's tables until there are at least `wanted` photos; returns how many there are."""
    old = Run(source, make_config({"dataset": {"root": "."}}))
    new = Run.create(target, old.config)
    n_photos = sum(len(part) for part in old.scan("samples", ["sample_id"]))
    copies = -(-wanted // n_photos)
    for name in ("attributes", "heads"):
        new.write(name, fitting(name, old.read(name)), shard=0, fingerprint="given")
    for name in COPIED:
        parts = list(old.scan(name))
        if len(parts) == 1 and name == "clusters":
            one = pl.concat([_renamed(parts[0], copy) for copy in range(copies)])
            new.write(name, fitting(name, one), shard=0, fingerprint="given")
            continue
        for copy in range(copies):
            for number, part in enumerate(parts):
                renamed = fitting(name, _renamed(part, copy))
                new.write(name, renamed, shard=copy * len(parts) + number, fingerprint="given")
    return copies * n_photos


def _renamed(part: pl.DataFrame, copy: int) -> pl.DataFrame:
    return part.with_columns(pl.format("{}-{}", pl.lit(copy), name).alias(name) for name in KEYS if name in part)


def fitting(table: str, part: pl.DataFrame) -> pl.DataFrame:
    """Adds as nulls the columns that the table was given since the run was made."""
    return pl.concat([frame_of(table, []), part], how="diagonal_relaxed")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--work", type=Path, help="where copies are written; else the temporary folder")
    parser.add_argument("--stage", choices=MEASURED, help="run this one stage on the given run and print its peak")
    return parser.parse_args()


if __name__ == "__main__":
    main()
