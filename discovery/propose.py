"""Labels and some of their photos × proposer → `attributes`: the candidate cues of each class."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.llm_budget import money
from discovery.backends.proposer import Attribute, Note, Proposer, load_proposer
from discovery.config import RunConfig
from discovery.errors import ConfigError
from discovery.notes import draw, look_at, take_notes
from discovery.run import Run, Stage, frame_of
from discovery.vocabulary import packaged_file

COSTS_FILE = "propose_costs.json"


def pick_images(samples: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """Draws the photos of one class that a proposer is shown.

    They come from the photos that are not audited, so that what is looked at does not choose what is
    tested on it; from all of them where those are too few.

    Args:
        samples: rows of `samples` of one label, in any order.
        n: how many.
        seed: of the draw.

    Returns:
        At most n rows, in random order: the same ones whatever the order of the table.
    """
    apart = samples.filter(~pl.col("audit"))
    return draw(apart if len(apart) >= n else samples, n, seed)


def attribute_id(phrase: str, kind: str) -> str:
    """Returns the id of an attribute: the same for every class that it is proposed for."""
    return hashlib.sha256(f"{kind}\n{phrase.casefold()}".encode()).hexdigest()[:12]


def attribute_frame(proposed: Iterable[tuple[str, Sequence[Attribute]]]) -> pl.DataFrame:
    """Builds the table `attributes` from (label, its attributes), sorted by label, then as proposed."""
    rows = []
    for label, attributes in sorted(proposed, key=lambda item: item[0]):
        for attribute in attributes:
            values = {name: value for name, value in vars(attribute).items() if name != "marks"}
            marks = vars(attribute.marks) if attribute.marks else {}
            named = {"attribute_id": attribute_id(attribute.phrase, attribute.kind), "label": label}
            rows.append(named | values | marks)
    return frame_of("attributes", rows)


def _work(run: Run, _: int | None) -> pl.DataFrame:
    config = run.config
    settings = config.propose
    if settings.cache is None:  # beside the run, not in it: a fresh run asks nothing again
        settings = settings.model_copy(update={"cache": str(run.path.parent / "llm-cache")})
    proposer = load_proposer(settings.proposer, settings, config.detect, config.compute)
    samples = run.read("samples", columns=["sample_id", "uri", "label", "audit"])
    labels = sorted(samples["label"].drop_nulls().unique())
    _check_labels(proposer, labels)
    frames = samples.partition_by("label", as_dict=True)
    notes = _notes(run, samples)
    proposed = [
        (label, proposer.propose(label, _look(proposer, frames[label,], config), *([notes[label]] if notes else [])))
        for label in labels
    ]
    _keep_costs(run, proposer)
    return attribute_frame(proposed)


def _check_labels(proposer: Proposer, labels: Sequence[str]) -> None:
    unknown = sorted(proposer.labels - set(labels))
    if unknown:
        known = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
        raise ConfigError(f"propose.file names the label {unknown[0]!r}, which no sample has; labels: {known}")


def _look(proposer: Proposer, samples: pl.DataFrame, config: RunConfig) -> list[np.ndarray]:
    """Decodes the photos of one class that the proposer is shown."""
    return look_at(pick_images(samples, proposer.looks, config.seed), config) if proposer.looks else []


def _notes(run: Run, samples: pl.DataFrame) -> dict[str, list[Note]]:
    if run.config.propose.evidence == "none":
        return {}
    predictions = run.read("predictions", columns=["sample_id", "correct"])
    return defaultdict(list, take_notes(samples, predictions, run.config))


def _keep_costs(run: Run, proposer: Proposer) -> None:
    """Writes what a server's answers cost beside the tables; a proposer that asks none leaves no such file."""
    (run.path / COSTS_FILE).unlink(missing_ok=True)
    if costs := proposer.costs():
        steps = {step: vars(cost) | {"money": money(cost, run.config.propose)} for step, cost in costs.items()}
        run.write_text(COSTS_FILE, json.dumps({"model": run.config.propose.llm, "steps": steps}, indent=2))


def _predictions(config: RunConfig) -> tuple[str, ...]:
    """Returns the table that notes on photos need: without them another model is no reason to propose again."""
    return () if config.propose.evidence == "none" else ("predictions",)


def _list_state(config: RunConfig) -> str | None:
    """Returns a hash of the list that phrases are taken from: its change is a reason to propose again."""
    name, file = config.propose.proposer, config.propose.file
    path = packaged_file("vocabulary.toml") if name == "vocabulary" else Path(file) if file else None
    if path is None:
        return None
    # A file that is not there is refused by the stage itself, which says what it wants.
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


STAGE = Stage(
    name="propose",
    table="attributes",
    inputs=("samples",),
    config=lambda config: (config.propose, config.detect, config.dataset),
    work=_work,
    outside=_list_state,
    also=_predictions,
)
