"""Prints how small a planted reaction of a multimodal LLM is found, and how often nothing is taken for one.

Usage: python -m tests.benchmarks.mllm_hallucination [--photos 40] [--reactions 0 2 4] [--nulls 200]
A server on loopback plays the model: it sees the animals well, and a dog by so many log-odds more where there is a red
circle. The whole corridor audits it, then `discovery ask` does. Nulls: the answers of a model that does not react, held
against cues that are shuffled among the photos of each class.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))  # chat_server and mllm_scene, which the tests share

from chat_server import chat_server
from mllm_scene import mind, settings, write_photos

from discovery.asking import ask_run
from discovery.config import make_config
from discovery.corridor import discover
from discovery.draws import read_draws
from discovery.perceive import perceive
from discovery.run import Run

REACTIONS = (0.0, 0.5, 1.0, 2.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=40, help="per class")
    parser.add_argument("--reactions", type=float, nargs="+", default=REACTIONS, help="log-odds; the first: nulls")
    parser.add_argument("--nulls", type=int, default=200)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_photos(place / "photos", options.photos)
        print("| reaction | verdict | log-odds effect | yes with, without | q | log-odds gap | q | others | calls |")
        print("|---|---|---|---|---|---|---|---|---|")
        without, *_ = [print_reaction(place, reaction) for reaction in options.reactions]
        print_nulls(without, options.nulls)


def print_reaction(place: Path, reaction: float) -> tuple[pl.DataFrame, pl.DataFrame, Run]:
    """Prints one row, and returns the draws, the answers and the run behind it."""
    with chat_server() as server:
        server.otherwise = mind(reaction)
        where = {"llm": "tiny", "base_url": server.base_url, "cache": str(place / f"cache-{reaction}")}
        run = discover(make_config(settings(place / "photos", where)), place / "run")
        audit = len(server.asked)
        found = ask_run(run).filter(pl.col("wording") == "all")
        calls = len(server.asked)
    cues = run.read("cues")
    planted = cues.filter((pl.col("label") == "dog") & (pl.col("phrase") == "red circle")).row(0, named=True)
    dog = (pl.col("label") == "dog") & (pl.col("phrase") == "red circle")
    made_up = found.filter(dog & (pl.col("probe") == "other")).row(0, named=True)
    others = cues.filter((pl.col("phrase") != "red circle") & (pl.col("verdict") == "spurious")).height
    others += found.filter((pl.col("phrase") != "red circle") & (pl.col("gap_q") <= 0.05)).height
    effect = "–" if planted["logit_effect"] is None else f"{planted['logit_effect']:+.2f}"
    cells = [
        f"{reaction:g}",
        planted["verdict"],
        effect,
        f"{made_up['rate_with']:.2f}, {made_up['rate_without']:.2f}",
        f"{made_up['gap_q']:.3f}",
        f"{made_up['logit_gap']:+.2f}",
        f"{made_up['logit_q']:.3f}",
        str(others),
        f"{audit} + {calls - audit}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)
    return read_draws(run), run.read("answers"), run


def print_nulls(kept: tuple[pl.DataFrame, pl.DataFrame, Run], n: int) -> None:
    """Prints in how many shuffles a p-value is at most 0.05, and in how many any adjusted one is."""
    draws, answers, run = kept
    rng, small, any_small = np.random.default_rng(0), [], []
    sides = draws["with_cue"].to_numpy()
    strata = draws.select(pl.struct("label", "cue_id", "probe", "stratum").rank("dense")).to_series().to_numpy()
    for seed in range(n):
        shuffled = sides.copy()
        for stratum in np.unique(strata):
            shuffled[strata == stratum] = rng.permutation(sides[strata == stratum])
        rows = perceive(draws.with_columns(with_cue=pl.Series(shuffled)), answers, run.config.associate, seed)
        summed = [row for row in rows if row["wording"] == "all"]
        small += [(row["probe"], row["gap_p"] <= 0.05, row["logit_p"] <= 0.05) for row in summed]
        any_small.append([min(row[q] for row in summed) <= 0.05 for q in ("gap_q", "logit_q")])
    print(f"\n{n} shuffles, {len(small) // n} tests each: share of p ≤ 0.05\n")
    print("| probe | rates | log-odds |\n|---|---|---|")
    for probe in dict.fromkeys(name for name, _, _ in small):
        shares = np.mean([two for name, *two in small if name == probe], axis=0)
        print(f"| {probe} | {shares[0]:.3f} | {shares[1]:.3f} |")
    shares = np.mean(any_small, axis=0)
    print(f"\nshuffles with any q ≤ 0.05: {shares[0]:.3f} by rates, {shares[1]:.3f} by log-odds")


if __name__ == "__main__":
    main()
