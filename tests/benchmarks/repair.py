"""Prints what repairs win: worst-group accuracy with no, random, found and true groups; effects before and after.

Usage: python -m tests.benchmarks.repair --work FOLDER [--bar RUN] [--seeds 5] [--out docs/benchmarks.md]
RUN is a finished run on the BAR photos. Rows are kept in FOLDER/repair.jsonl: an interrupted benchmark goes on.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from discovery.ablate import repeat
from discovery.backends.roles import Head, Reheaded, softmax
from discovery.config import ModelConfig, make_config
from discovery.errors import DataError
from discovery.features import Remembering
from discovery.fit import fit_probe
from discovery.predict import prediction_frame
from discovery.repairs.linear_fit import Scaled
from discovery.repairs.menu import load_repair
from discovery.repairs.task import Task, group_accuracy
from discovery.retrain_audit import CHOSEN, NULL, WORSE, Judged, audit
from discovery.retrain_job import PAIR, Job
from discovery.retrain_steps import photo_features_of, task_of
from discovery.run import Run, frame_of
from tests.benchmarks.repair_arena import Arena, digits

STRENGTHS = (0.9, 0.95, 0.99)
BEGIN, END = "<!-- repair: begin -->", "<!-- repair: end -->"
ERM, AUDITED = "as it is", ("dfr", "reweight", "groupdro", "project")
ROWS = (("dfr", "random"), ("dfr", "discovered"), ("dfr", "true"), ("reweight", "discovered"))
ROWS += (("groupdro", "discovered"), ("project", "discovered"), ("jtt", "none"), ("spuco groupdro", "discovered"))
WORST_OF = 8
"""Judged photos that a group must have to be the worst."""


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "repair.jsonl"
    done = _read(file)
    for name, make in _agenda(options):
        if any(row["setting"] == name for row in done):
            continue
        start = time.perf_counter()
        rows = [{"setting": name, **row} for row in make()]
        with file.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        done += rows
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    text = report(done)
    print(text)
    if options.out:
        page = options.out.read_text(encoding="utf-8")
        if BEGIN not in page:
            page = page.rstrip() + f"\n\n## Repairs\n\n{BEGIN}\n{END}\n"
        before, _, rest = page.partition(BEGIN)
        options.out.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bar", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="settings whose name begins with this")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _agenda(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], list[dict]]]]:
    for seed in range(options.seeds):
        for v in STRENGTHS:
            name = f"digits V={v} seed={seed}"
            if name.startswith(options.only):
                yield name, lambda v=v, seed=seed: digits_rows(options.work / "digits", v, seed)
        if options.bar and "bar".startswith(options.only[:3]):
            yield f"bar seed={seed}", lambda seed=seed: bar_rows(options.bar, seed)


# --- planted digits ---------------------------------------------------------------------------------------------------


def digits_rows(folder: Path, v: float, seed: int) -> list[dict]:
    arena = digits(folder, v, seed)
    facts = {"arena": "digits", "V": v, "seed": seed, "tau": arena.tau}
    try:
        job = Job.create(arena.run, arena.run.config)
    except DataError:
        shutil.rmtree(arena.run.path)
        return [facts | {"method": ERM, "groups": "–", "discovered": False}]
    task, bench = task_of(job), _Bench(job, arena)
    rows = [facts | {"method": ERM, "groups": "–", "discovered": True} | bench.accuracy(task.head())]
    for method, groups in ROWS:
        head = _repaired(method, _with_groups(task, groups, arena, seed))
        row = facts | {"method": method, "groups": groups, "discovered": True} | bench.accuracy(head)
        if groups in ("discovered", "true") and method in AUDITED:
            row |= bench.effects(head)
        rows.append(row)
    shutil.rmtree(arena.run.path)
    return rows


def _with_groups(task: Task, groups: str, arena: Arena | None, seed: int) -> Task:
    if groups == "true":
        return replace(task, groups=arena.groups(task.classes, task.label, task.sample_id, task.config.min_group))
    if groups != "random":
        return task
    rng, of = np.random.default_rng([seed, 3]), task.groups.of.copy()
    for y in np.unique(task.label):
        of[task.label == y] = rng.permutation(of[task.label == y])
    return replace(task, groups=replace(task.groups, of=of))


def _repaired(method: str, task: Task) -> Head:
    return spuco_groupdro(task) if method.startswith("spuco") else load_repair(method)(task).head


class _Bench:
    """Judges layers of one model by the photos that the run audited."""

    def __init__(self, job: Job, arena: Arena) -> None:
        self._job, self._judged = job, job.split.filter(pl.col("part") == "judged")
        self._features = photo_features_of(job, self._judged["sample_id"])
        classes = job.model.classes
        self._label = np.array([classes.index(name) for name in self._judged["label"]])
        ids = self._judged["sample_id"].to_numpy()
        self._groups = arena.groups(classes, self._label, ids, 1)
        fitted = job.split.filter(pl.col("part") == "fitted")
        label = np.array([classes.index(name) for name in fitted["label"]])
        train = arena.groups(classes, label, fitted["sample_id"].to_numpy(), 1)
        sizes = dict(zip(train.names, train.sizes.tolist(), strict=True))
        self._shares = np.array([sizes.get(name, 0) for name in self._groups.names], float)
        self._model = Remembering(job.model, job.before, "repairs/kept/bench.npz")
        pairs = [job.cues.with_columns(role=pl.lit(CHOSEN)), job.nulls.with_columns(role=pl.lit(NULL))]
        self._pairs = pl.concat(pairs)
        self._tried = job.before.read("effects").join(self._pairs, on=PAIR, how="semi")
        self._before = self._try(job.before, self._model)

    def accuracy(self, head: Head) -> dict[str, float]:
        right = head.logits(self._features).argmax(axis=1) == self._label
        accuracy, large = group_accuracy(right, self._groups), self._groups.sizes >= WORST_OF
        average = float(accuracy @ self._shares / self._shares.sum())
        return {"worst": float(accuracy[large].min()), "average": average, "accuracy": float(right.mean())}

    def effects(self, head: Head) -> dict[str, float]:
        probs = softmax(head.logits(self._features))
        self._job.after.write(
            "predictions", prediction_frame(self._judged, probs, head.classes), shard=0, fingerprint="x"
        )
        after = self._try(self._job.after, Reheaded(self._model, head))
        cue_ids = self._pairs["cue_id"].unique(maintain_order=True).to_list()
        right = probs.argmax(axis=1) == self._label
        empty = np.zeros((0, len(cue_ids)), bool)
        shown = self._job.presences(self._judged["sample_id"], cue_ids)
        photos = Judged(self._judged["label"].to_numpy(), right, right, shown, cue_ids, np.zeros(0, str), empty)
        config = self._job.before.config
        found = audit(self._pairs, (self._before, after), photos, config.rank, config.seed)
        chosen = found.filter((pl.col("role") == CHOSEN) & (pl.col("effect_before").abs() >= config.rank.min_effect))
        left = (chosen["effect_after"] / chosen["effect_before"]).median()
        worse = int((found["outcome"] == WORSE).sum())
        return {"left": left, "nulls": int((found["role"] == NULL).sum()), "nulls_worse": worse}

    def _try(self, run: Run, model) -> pl.DataFrame:
        return frame_of("effects", list(repeat(run, self._job.before, self._tried, model)))


# --- BAR --------------------------------------------------------------------------------------------------------------


def bar_rows(folder: Path, seed: int) -> list[dict]:
    """Fits the probe on a random 70 % of the training photos, repairs it there, and judges both by the test photos."""
    run = Run.open(folder)
    run = Run(folder, make_config(run.config.model_dump(mode="json") | {"seed": seed}))
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
    rows = []
    for method, groups in ((ERM, "–"), *(row for row in ROWS if row[1] != "true"), ("wise", "discovered")):
        made = head if method == ERM else _repaired(method, _with_groups(task, groups, None, seed))
        right = name[made.logits(features).argmax(axis=1)] == label
        worst = min(right[label == y].mean() for y in task.classes)
        rows.append({"arena": "bar", "seed": seed, "method": method, "groups": groups, "discovered": True})
        rows[-1] |= {"accuracy": float(right.mean()), "worst": float(worst)}
    return rows


# --- an outside yardstick ---------------------------------------------------------------------------------------------


def spuco_groupdro(task: Task) -> Head:
    """Trains a linear layer by SpuCo's own GroupDRO on the same standardised features and groups."""
    import torch
    from spuco.datasets import GroupLabeledDatasetWrapper
    from spuco.robust_train import GroupDRO

    scaled = Scaled.of(task.features())
    x, label = torch.from_numpy(scaled.x), torch.from_numpy(task.label)
    partition = {(int(y), g): np.flatnonzero(task.groups.of == g).tolist() for g, y in enumerate(task.groups.label)}
    layer = torch.nn.Linear(x.shape[1], len(task.classes), bias=False)
    torch.nn.init.zeros_(layer.weight)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.003, momentum=0.9, weight_decay=0.1)
    dataset = GroupLabeledDatasetWrapper(torch.utils.data.TensorDataset(x, label), partition)
    GroupDRO(layer, dataset, batch_size=128, optimizer=optimiser, num_epochs=10).train()
    return scaled.head(layer.weight.detach().double().numpy(), task.classes)


# --- tables -----------------------------------------------------------------------------------------------------------


def report(rows: list[dict]) -> str:
    """Returns the tables as Markdown."""
    parts = []
    planted = [row for row in rows if row["arena"] == "digits"]
    for v in sorted({row["V"] for row in planted}):
        mine = [row for row in planted if row["V"] == v]
        tau = np.array([row["tau"] for row in mine if row["method"] == ERM])
        missed = sum(not row["discovered"] for row in mine)
        parts += [f"### Planted square on digits, V = {v}", ""]
        parts += [f"{len(tau)} models, learned strength τ {_mean(tau)}; in {missed} nothing was found to repair.", ""]
        parts += [_table(mine, ("worst", "average", "left", "nulls_worse")), ""]
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


HEADINGS = {
    "worst": "worst group, %",
    "average": "average, %",
    "accuracy": "accuracy, %",
    "gain": "above as it is, same draw",
    "left": "share of the net effect left",
    "nulls_worse": "null cues worse, of all tried",
}


def _table(rows: list[dict], columns: tuple[str, ...]) -> str:
    lines = ["| repair | groups | " + " | ".join(HEADINGS[name] for name in columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for method, groups in dict.fromkeys((row["method"], row["groups"]) for row in rows if row["discovered"]):
        mine = [row for row in rows if (row["method"], row["groups"]) == (method, groups) and row["discovered"]]
        cells = [_cell(name, mine) for name in columns]
        lines.append(f"| {method} | {groups} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(name: str, rows: list[dict]) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return "–"
    if name == "nulls_worse":
        return f"{sum(values)} of {sum(row['nulls'] for row in rows if 'nulls' in row)}"
    return _mean(np.array(values) * (1 if name == "left" else 100), 2 if name == "left" else 1)


def _mean(values: np.ndarray, digits_after: int = 2) -> str:
    spread = values.std(ddof=1) if len(values) > 1 else float("nan")
    return f"{values.mean():.{digits_after}f} ± {spread:.{digits_after}f}"


if __name__ == "__main__":
    main()
