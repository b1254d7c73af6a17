"""Region embeddings → how much faster they are clustered than by RaVL's k-medoids sweep, and in how much memory."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from discovery.cluster import cluster
from discovery.config import ClusterConfig
from tests.benchmarks.peers import ravl_clusters

PART = 10_700
"""Regions of one shard: 512 photos with about 21 regions each."""
WIDTH = 1280


def compare(embeddings: np.ndarray, n_classes: int, planted: np.ndarray) -> str:
    """Returns Markdown rows: seconds of both on the same embeddings, and how pure the planted regions' cluster is.

    Args:
        embeddings: (n, d) float32, unit norm.
        n_classes: RaVL tries every k from twice to five times as many.
        planted: (n,) bool, regions that hold the planted cue.
    """
    start = time.perf_counter()
    ours = cluster(embeddings, ClusterConfig(k_candidates=(8, 20, 40)), 0).assign(embeddings)[0]
    fast = time.perf_counter() - start
    start = time.perf_counter()
    theirs = ravl_clusters(embeddings, n_classes, np.random.default_rng(0)).cluster
    slow = time.perf_counter() - start
    return "\n".join(
        [
            f"| regions | {len(embeddings)} |",
            f"| this pipeline, 3 values of k with silhouettes | {fast:.1f} s, planted regions {_pure(ours, planted)} |",
            f"| RaVL, {3 * n_classes} values of k | {slow:.1f} s, planted regions {_pure(theirs, planted)} |",
            f"| ratio (target ≥ 50) | {slow / fast:.0f} |",
        ]
    )


def _pure(groups: np.ndarray, planted: np.ndarray) -> str:
    """Says which share of the planted regions lies in clusters that are mostly planted."""
    sizes = np.bincount(groups)
    held = np.bincount(groups, planted, minlength=len(sizes))
    pure = held > sizes / 2
    return f"{pure[groups[planted]].mean():.3f} in clusters of their own"


def memory(n_regions: int) -> str:
    """Returns a Markdown row: peak memory of the stage over `n_regions` regions on disk, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.clustering", folder, str(n_regions)]
        written = subprocess.run([*command, "write"], check=True, capture_output=True, text=True)
        assert not written.stdout
        peak = subprocess.run([*command, "cluster"], check=True, capture_output=True, text=True).stdout
    return f"| peak memory of the stage at {n_regions:,} regions (target ≤ 2 GiB) | {peak.strip()} |"


def _write(folder: Path, n_regions: int) -> None:
    from discovery.config import make_config
    from discovery.run import Run, frame_of

    run, rng = Run.create(folder / "run", make_config({"dataset": {"root": "."}})), np.random.default_rng(0)
    centres = rng.normal(size=(60, WIDTH)).astype(np.float32)
    run.write("attributes", frame_of("attributes", []), shard=0, fingerprint="x")
    for part, start in enumerate(range(0, n_regions, PART)):
        n = min(PART, n_regions - start)
        rows = centres[rng.integers(60, size=n)] + 0.7 * rng.standard_normal((n, WIDTH), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        frame = pl.DataFrame(
            {
                "region_id": [f"r{start + i}" for i in range(n)],
                "embedding": pl.Series(rows).cast(pl.List(pl.Float32)),
                "norm": np.ones(n, np.float32),
            }
        )
        run.write("embeddings", frame, shard=part, fingerprint="x")


def _cluster(folder: Path) -> None:
    from discovery.corridor import STAGES, work
    from discovery.run import Run

    start = time.perf_counter()
    work(Run.open(folder / "run"), STAGES["cluster"], 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{peak:.2f} GiB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    place, count, action = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    _write(place, count) if action == "write" else _cluster(place)
