"""Prints what repairs win: worst-group accuracy with no, random, found and true groups; effects before and after.

Usage: python -m tests.benchmarks.repair --work FOLDER [--bar RUN] [--photos PHOTOS] [--out docs/benchmarks.md]
RUN is a finished run on the BAR photos, PHOTOS a folder of real photos. Rows are kept in FOLDER/repair.jsonl, and so
are the planted runs: an interrupted benchmark goes on, and repairs can be tried again without another discovery.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from discovery.config import ModelConfig, RunConfig, make_config, override
from discovery.errors import DataError
from discovery.fit import fit_probe
from discovery.retrain_job import Job
from discovery.retrain_steps import photo_features_of, task_of
from discovery.run import Run
from tests.benchmarks.repair_arena import Arena, digits, photos
from tests.benchmarks.repair_bench import Bench, repaired
from tests.benchmarks.repair_tables import ERM, report

STRENGTHS = (0.95, 0.9, 0.99)
BEGIN, END = "<!-- repair: begin -->", "<!-- repair: end -->"
SETTINGS = {
    "digits": ("inverse_regularisation=[0.01,0.003]", "fits=3", "augment_photos=3"),
    "photos": ("inverse_regularisation=[0.1,0.01]", "fits=3", "augment_photos=3"),
    "bar": ("inverse_regularisation=[0.1,0.03,0.01]", "fits=3"),
}
"""Of `retrain`, where they are not the product's own; chosen on seed 100, which is in no table."""
GROUPS = ("random", "discovered", "true")
ROWS = tuple((method, groups) for method in ("counterfactual", "groupdro", "reweight", "dfr") for groups in GROUPS)
ROWS += (("project", "discovered"), ("spufix", "discovered"), ("jtt", "none"))
COPIED = ("augment", "counterfactual")
"""Repairs that make copies: thousands of forwards per draw, so that BAR is printed without them."""
DEAR = (("augment", "discovered"), ("wise", "discovered"), ("spuco groupdro", "discovered"))
DEAR_AT = {"digits": STRENGTHS, "photos": STRENGTHS[:1]}
"""Strengths at which those are made that cost as much as all others."""


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "repair.jsonl"
    done = _read(file)
    for name, make in _agenda(options):
        start = time.perf_counter()
        for made in make([row for row in done if row["setting"] == name]):
            done.append({"setting": name, **made})
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(done[-1]) + "\n")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    order = [(ERM, "–"), *ROWS, *DEAR]
    text = report(sorted(done, key=lambda row: order.index((row["method"], row["groups"]))))
    print(text)
    if options.out:
        page = options.out.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        options.out.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bar", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", default="", help="settings whose name begins with this")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _missing(rows: tuple[tuple[str, str], ...], done: list[dict]) -> list[tuple[str, str]]:
    made = {(row["method"], row["groups"]) for row in done}
    return [row for row in rows if row not in made]


def _agenda(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[list[dict]], Iterator[dict]]]]:
    makers = {"digits": partial(digits, options.work / "digits")}
    if options.photos:
        makers["photos"] = partial(photos, options.work / "photos", options.photos)
    for kind, make in makers.items():
        for seed in options.seeds:
            for v in STRENGTHS:
                name = f"{kind} V={v} seed={seed}"
                if name.startswith(options.only):
                    yield name, partial(planted_rows, kind, make, v, seed)
    if options.bar and "bar".startswith(options.only[:3]):
        for seed in options.seeds:
            yield f"bar seed={seed}", partial(bar_rows, options.bar, seed)


def planted_rows(
    kind: str, make: Callable[[float, int], Arena], v: float, seed: int, done: list[dict]
) -> Iterator[dict]:
    """Runs the product on one model with planted cues, and repairs and judges it by each method and kind of groups.

    Args:
        kind: of the planted set.
        make: runs the product on it.
        v: Cramér's V of a cue with its class.
        seed: of the model.
        done: rows of this model that there are already.
    """
    wanted = _missing(((ERM, "–"), *ROWS, *(DEAR if v in DEAR_AT[kind] else ())), done)
    if not wanted or not all(row["discovered"] for row in done):
        return
    arena = make(v, seed)
    facts = {"arena": kind, "V": v, "seed": seed, "tau": float(np.median(arena.tau)), "discovered": True}
    config = override(arena.run.config, [f"retrain.{each}" for each in SETTINGS[kind]], ("retrain",))
    try:
        job = Job.create(arena.run, config)
    except DataError:
        yield facts | {"method": ERM, "groups": "–", "discovered": False}
        return
    task, bench = task_of(job), Bench(job, arena, arena.run.path / "tape.pkl")
    for method, groups in wanted:
        start = time.perf_counter()
        try:
            head = task.head() if method == ERM else repaired(method, groups, task, job, arena)
            made = bench.row(head)
        except DataError as error:
            print(f"{method} {groups}: {error}", flush=True)
            continue
        yield facts | {"method": method, "groups": groups, "s": time.perf_counter() - start} | made


def bar_rows(folder: Path, seed: int, done: list[dict]) -> Iterator[dict]:
    """Fits the probe on a random 70 % of the training photos, repairs it there, and judges both by the test photos."""
    wanted = ((ERM, "–"), *(row for row in ROWS + DEAR if row[1] != "true" and row[0] not in COPIED))
    if not (wanted := _missing(wanted, done)):
        return
    run = Run.open(folder)
    settings = [f"retrain.{each}" for each in SETTINGS["bar"]]
    run = Run(folder, override(_anew(run.config, seed), settings, ("retrain",)))
    job = Job(run, run)
    samples = run.read("samples", columns=["sample_id", "uri", "split", "label"])
    rng = np.random.default_rng([seed, 17])
    fitted = ((samples["split"] == "train") & pl.Series(rng.random(len(samples)) < 0.7)).to_numpy()
    parts = pl.Series(np.where(fitted, "fitted", np.where(samples["split"] == "test", "judged", "unused")))
    job.__dict__["split"] = samples.with_columns(part=parts)
    task = task_of(job)
    name = np.array(task.classes)
    head = fit_probe(task.features(), name[task.label], ModelConfig(), seed)
    task = replace(task, head=lambda: head)
    test = job.split.filter(pl.col("part") == "judged")
    features, label = photo_features_of(job, test["sample_id"]), test["label"].to_numpy()
    for method, groups in wanted:
        made = head if method == ERM else repaired(method, groups, task, job, None)
        right = name[made.logits(features).argmax(axis=1)] == label
        worst = min(right[label == y].mean() for y in task.classes)
        facts = {"arena": "bar", "seed": seed, "method": method, "groups": groups, "discovered": True}
        yield facts | {"accuracy": float(right.mean()), "worst": float(worst)}


def _anew(config: RunConfig, seed: int) -> RunConfig:
    """Returns the configuration with another seed, and the product's own settings of a repair."""
    values = config.model_dump(mode="json") | {"seed": seed}
    return make_config({name: part for name, part in values.items() if name != "retrain"})


if __name__ == "__main__":
    main()
