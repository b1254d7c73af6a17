"""A user's photos and model → how small a planted cue a run finds, and how often it reports one where there is none."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier import Head
from discovery.calibration import Calibration, Curve, Nulls, others_reported, points_of, reported, seen_in
from discovery.config import DatasetConfig, RunConfig
from discovery.corridor import STAGES, Progress, make
from discovery.fit import head_frame
from discovery.nulls import permute_presences
from discovery.picked import FIT, pick_photos
from discovery.planted import Plant, Planted
from discovery.planted_copy import Copy, plant_copy, rounds
from discovery.reaction import Subject, load_subject, measure_truth, write_sensor
from discovery.run import Run

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Log-odds that a cue seen for certain adds to its class; at 0 the model is as it is."""
ONCE = ("ingest", "propose", "detect", "embed", "cluster", "presence")
AGAIN = ("associate", "ablate", "rank")


@dataclass(frozen=True)
class Effort:
    """How much is spent on a calibration.

    Attributes:
        photos: per class at most.
        nulls: runs with permuted presences.
        seed: of everything that is drawn.
    """

    photos: int = 60
    nulls: int = 20
    seed: int = 0


@dataclass(frozen=True)
class _Round:
    """A planted copy, the run that has made all tables which do not depend on the model, and the model's reaction."""

    subject: Subject
    planted: Planted
    run: Run
    config: RunConfig
    mark: str

    def at(self, strength: float) -> RunConfig:
        """Returns the configuration of the run whose model reacts that strongly."""
        model = self.config.model.model_copy(update={"sensor_strength": strength})
        return self.config.model_copy(update={"model": model})


def calibrate(config: RunConfig, folder: Path, effort: Effort, progress: Progress = lambda *_: None) -> Calibration:
    """Plants cues in a copy of some of the photos, makes the model react to them, and runs the stages on it.

    Args:
        config: of the run that is calibrated; candidates come from the vocabulary, whatever its proposer.
        folder: where the runs and `calibration.json` go; the photos go beside it, into `<folder>-photos`.
        effort: photos, null runs, seed.
        progress: called as in `corridor.discover`.

    Raises:
        ConfigError: too few photos per class are asked for.
        DataError: the dataset cannot be read or has too few photos, or the folder cannot be written.
        BackendError: the model cannot be loaded.
    """
    picked = pick_photos(config, effort.photos, effort.seed)
    subject = load_subject(config, picked, effort.seed)
    plants = rounds(picked.labels)
    turns = [_prepare(subject, mine, folder, number, progress) for number, mine in enumerate(plants, 1)]
    curves: list[Curve] = []
    there: list[dict] = []
    nulls: list[tuple[dict, ...]] = []
    for number, turn in enumerate(turns):
        runs = [_at_strength(turn, strength, progress) for strength in STRENGTHS]
        curves += _curves(turn, runs)
        there += others_reported(runs[0].read("cues"), turn.run.read("presences"), turn.planted)
        for null in range(number, effort.nulls, len(turns)):
            progress("nulls", len(nulls), effort.nulls)
            nulls.append(tuple(_null(turn, runs[0], null + 1)))
    progress("nulls", len(nulls), effort.nulls)
    made = Calibration(
        name=config.name,
        model=config.model.kind,
        seed=effort.seed,
        photos=tuple(picked.photos.group_by("label", "split").len("n").sort("label", "split").rows(named=True)),
        left_out=picked.left_out,
        curves=tuple(curves),
        nulls=Nulls(tuple(nulls)),
        already_there=tuple(there),
    )
    Run(folder, config).write_text("calibration.json", json.dumps(made.plain(), indent=2, ensure_ascii=False))
    return made


def _prepare(subject: Subject, plants: tuple[Plant, ...], folder: Path, number: int, progress: Progress) -> _Round:
    """Plants a copy, runs what does not depend on the model on it, and fits the sensors of its cues."""
    config = subject.config
    copy = Copy(subject.picked.photos, plants, config.dataset, subject.model.field, subject.seed)
    planted = plant_copy(copy, folder.with_name(f"{folder.name}-photos") / f"round-{number}")
    dataset = DatasetConfig(
        root=str(planted.root),
        manifest=str(planted.root / "manifest.csv"),
        fit_split=FIT,
        holdout_frac=0.0,
        max_pixels=config.dataset.max_pixels,
    )
    changed = {
        "dataset": dataset,
        "propose": config.propose.model_copy(update={"proposer": "vocabulary", "file": None}),
        "ablate": config.ablate.model_copy(update={"untied_images": 0, "object": "given"}),
    }
    run = Run.create(folder / f"round-{number}" / "copy", config.model_copy(update=changed))
    for name in ONCE:
        make(run, STAGES[name], progress)
    mark = _mark(copy, subject.head)
    sensor = run.path / f"sensor-{mark}.npz"
    write_sensor(subject, plants, sensor)
    model = config.model.model_copy(update={"sensor": str(sensor)})
    return _Round(subject, planted, run, run.config.model_copy(update={"model": model}), mark)


def _mark(copy: Copy, head: Head) -> str:
    """Returns a short hash of the photos and of a probe's weights."""
    weights = b"" if head.coef is None or head.intercept is None else head.coef.tobytes() + head.intercept.tobytes()
    return hashlib.sha256(copy.mark.encode() + repr(head.classes).encode() + weights).hexdigest()[:12]


def _at_strength(turn: _Round, strength: float, progress: Progress) -> Run:
    """Runs the rest with a model that reacts to the cues."""
    progress("strengths", STRENGTHS.index(strength), len(STRENGTHS))
    tables = {name: turn.run.read(name) for name in ("samples", "attributes", "regions", "presences")}
    run = _given(turn, f"strength-{strength:g}", turn.at(strength), tables | {"heads": head_frame(turn.subject.head)})
    for name in ("predict", *AGAIN):
        make(run, STAGES[name])
    progress("strengths", STRENGTHS.index(strength) + 1, len(STRENGTHS))
    return run


def _given(turn: _Round, name: str, config: RunConfig, tables: dict[str, pl.DataFrame]) -> Run:
    """Makes a run of tables that others have made."""
    run = Run.create(turn.run.path.with_name(name), config)
    for table, frame in tables.items():
        run.write(table, frame, shard=0, fingerprint=f"{turn.run.fingerprint(table)} {turn.mark} {name}")
    return run


def _curves(turn: _Round, runs: list[Run]) -> list[Curve]:
    """Compares what the runs at all strengths say of each planted cue with what it does."""
    plants = turn.planted.recipe.plants
    truths = [measure_truth(turn.subject, turn.config.model, plant, STRENGTHS) for plant in plants]
    cues, presences = [run.read("cues") for run in runs], turn.run.read("presences")
    points = points_of(cues, presences, turn.planted, truths, STRENGTHS)
    achieved = dict(turn.planted.plants.select("phrase", "achieved_train").iter_rows())
    curves = []
    for plant, truth, mine in zip(plants, truths, points, strict=True):
        seen, falsely = seen_in(presences, turn.planted, plant.phrase)
        v = achieved[plant.phrase]
        curves.append(Curve(plant.kind, plant.phrase, plant.label or "", v, truth.sensor_auc, seen, falsely, mine))
    return curves


def _null(turn: _Round, as_it_is: Run, number: int) -> list[dict]:
    """Runs the rest with the model as it is on permuted presences; returns what was reported."""
    samples = turn.run.read("samples")
    rng = np.random.default_rng([turn.subject.seed, 5, number])
    permuted = permute_presences(turn.run.read("presences"), turn.run.read("regions"), samples, rng)
    tables = {name: as_it_is.read(name) for name in ("heads", "attributes", "predictions")}
    tables |= {"samples": samples, "presences": permuted.presences, "regions": permuted.regions}
    run = _given(turn, f"null-{number}", turn.run.config, tables)
    for name in AGAIN:
        make(run, STAGES[name])
    return reported(run.read("cues"))
