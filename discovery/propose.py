"""Labels and some of their photos × proposer → `attributes`: the candidate cues of each class."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.proposer import Attribute, Proposer, load_proposer
from discovery.config import RunConfig
from discovery.errors import ConfigError
from discovery.images import decode_batches
from discovery.run import Run, Stage
from discovery.schema import TABLES
from discovery.vocabulary import packaged_file

LOOK_PX = 512
"""Photos are shrunk to this for a look, so that a class of large ones fits into memory."""


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
    pool = apart if len(apart) >= n else samples
    draw = [hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in pool["sample_id"]]
    return pool.with_columns(pl.Series("draw", draw, pl.String)).sort("draw").head(n).drop("draw")


def attribute_id(phrase: str, kind: str) -> str:
    """Returns the id of an attribute: the same for every class that it is proposed for."""
    return hashlib.sha256(f"{kind}\n{phrase.casefold()}".encode()).hexdigest()[:12]


def attribute_frame(proposed: Iterable[tuple[str, Sequence[Attribute]]]) -> pl.DataFrame:
    """Builds the table `attributes` from (label, its attributes), sorted by label, then as proposed."""
    rows = [
        (
            attribute_id(a.phrase, a.kind),
            label,
            a.phrase,
            a.kind,
            a.source,
            a.rationale,
            a.model,
            a.prompt_hash,
        )
        for label, attributes in sorted(proposed, key=lambda item: item[0])
        for a in attributes
    ]
    columns = dict.fromkeys(TABLES["attributes"].names, pl.String)
    return pl.DataFrame(rows, schema=columns, orient="row")


def _work(run: Run, _: int | None) -> pl.DataFrame:
    config = run.config
    proposer = load_proposer(config.propose.proposer, config.propose, config.detect, config.compute)
    samples = run.read("samples", columns=["sample_id", "uri", "label", "audit"])
    labels = sorted(samples["label"].drop_nulls().unique())
    _check_labels(proposer, labels)
    frames = samples.partition_by("label", as_dict=True)
    return attribute_frame(
        (label, proposer.propose(label, _look(proposer, frames[label,], config))) for label in labels
    )


def _check_labels(proposer: Proposer, labels: Sequence[str]) -> None:
    unknown = sorted(proposer.labels - set(labels))
    if unknown:
        known = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
        raise ConfigError(f"propose.file names the label {unknown[0]!r}, which no sample has; labels: {known}")


def _look(proposer: Proposer, samples: pl.DataFrame, config: RunConfig) -> list[np.ndarray]:
    """Decodes the photos of one class that the proposer is shown."""
    if not proposer.looks:
        return []
    picked = pick_images(samples, config.propose.images_per_class, config.seed)
    paths = [Path(config.dataset.root) / uri for uri in picked["uri"]]
    batches = decode_batches(
        paths, config.compute.batch_size, max_pixels=config.dataset.max_pixels, max_side_px=LOOK_PX
    )
    return [image for batch in batches for image in batch]


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
)
