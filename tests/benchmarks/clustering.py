"""Region embeddings → how much faster they are clustered than by RaVL's k-medoids sweep, and in how much memory."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from discovery.cluster import cluster
from discovery.config import ClusterConfig
from tests.benchmarks.digits_model import CLASSES, Held, held_out
from tests.benchmarks.digits_pool import Pool
from tests.benchmarks.peers import Evidence, ravl_clusters
from tests.benchmarks.peers.kmedoids import Clusters
from tests.benchmarks.peers.ravl import rank_clusters

PART = 10_700
"""Regions of one shard: 512 photos with about 21 regions each."""
WIDTH = 1280
STRENGTHS = (0.9, 0.95, 0.99)
LEARNED = 0.2
SQUARE = 1
"""Candidate 1 of the evidence is the planted square, candidate 0 all else."""


def compare(pool: Pool, folder: Path, *, n_regions: int = 20_000, seeds: int = 5) -> str:
    """Returns Markdown rows: seconds of both on the same embeddings, and what RaVL's ranking makes of their clusters.

    Seconds are the process's own over all its threads, so that a busy machine does not blur the ratio.

    Args:
        pool: the digits.
        folder: where their models are kept.
        n_regions: drawn from the pool.
        seeds: models per strength whose planted square is looked for.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(pool.cells))[:n_regions])
    embeddings = np.ascontiguousarray(pool.embedding[rows], np.float32)
    config = ClusterConfig(k_candidates=(8, 20, 40))
    cluster(embeddings[:200], config, 0)  # what is imported or allocated once belongs to neither
    start = time.process_time()
    found = cluster(embeddings, config, 0)
    ours = found.assign(embeddings)[0]
    fast = time.process_time() - start
    start = time.process_time()
    theirs = ravl_clusters(embeddings, len(CLASSES), np.random.default_rng(0))
    slow = time.process_time() - start
    nearest = (embeddings @ found.centroids.T).argmax(axis=0)
    both = {
        f"this pipeline, 3 values of k with silhouettes | {fast:.2f} s": Clusters(ours, nearest, found.silhouette),
        f"RaVL, {3 * len(CLASSES)} values of k | {slow:.1f} s": theirs,
    }
    held = [held_out(pool, folder, v, seed, rows) for v in STRENGTHS for seed in range(seeds)]
    square = pool.square[pool.cells[rows, 0]] == pool.cells[rows, 1]
    lines = [f"| regions | {len(embeddings)} |"]
    for name, clusters in both.items():
        hits = _hits(pool, rows, held, clusters)
        lines.append(f"| {name}, planted regions {_pure(clusters.cluster, square)}, hit@1 {hits} |")
    return "\n".join([*lines, f"| ratio (target ≥ 50) | {slow / fast:.0f} |"])


def _hits(pool: Pool, rows: np.ndarray, held: list[Held], clusters: Clusters) -> str:
    """Ranks the clusters by RaVL's rule for each model, and says how often the square comes first for its class."""
    hits = []
    for one in held:
        if one.tau < LEARNED:
            continue
        ranking = rank_clusters(_evidence(pool, rows, one), _within(clusters, one.inside))
        about = ranking.cue[ranking.label == one.label]
        hits.append(bool(len(about)) and about[0] == SQUARE)
    return f"{np.mean(hits):.3f} ({sum(hits)} of {len(hits)} models with τ ≥ {LEARNED})"


def _within(clusters: Clusters, inside: np.ndarray) -> Clusters:
    """Returns the clusters of some of the regions; one whose medoid is not among them is told by its first member."""
    place = np.cumsum(inside) - 1
    cluster_of = clusters.cluster[inside]
    medoid = [
        place[m] if inside[m] else (np.flatnonzero(cluster_of == k)[:1].tolist() or [0])[0]
        for k, m in enumerate(clusters.medoid)
    ]
    return Clusters(cluster_of, np.array(medoid, np.int64), clusters.silhouette)


def _evidence(pool: Pool, rows: np.ndarray, held: Held) -> Evidence:
    image, cell = pool.cells[rows[held.inside]].T
    photo = np.searchsorted(held.image, image)
    square = (pool.square[image] == cell).astype(np.int64)
    shown = np.zeros((2, len(held.image)), bool)
    shown[square, photo] = True
    return Evidence(
        embeddings=pool.embedding[rows[held.inside]],
        image=photo,
        region_probs=held.region_probs,
        label=pool.digit[held.image].astype(np.int64),
        probs=held.probs,
        image_embedding=np.zeros((len(held.image), 1), np.float32),
        cue_present=shown,
        cue_score=shown.astype(np.float32),
        cue_of_region=square,
        cue_words=("anything else", "red square"),
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
    print(f"{peak_gib():.2f} GiB, {time.perf_counter() - start:.0f} s")


def peak_gib() -> float:
    """Returns the most memory that this process has held.

    Not `ru_maxrss`: Linux carries it over from the process that started this one, which may have held far more.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


if __name__ == "__main__":
    place, count, action = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    _write(place, count) if action == "write" else _cluster(place)
