"""Predictions + photos → notes: what tags or captions say of photos that the model under audit got right and wrong."""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.proposer import Note
from discovery.config import RunConfig
from discovery.errors import DataError
from discovery.images import decode_batches
from discovery.listing import read_captions
from discovery.vocabulary import read_vocabulary

LOOK_PX = 512
"""Photos are shrunk to this for a look, so that a class of large ones fits into memory."""


def draw(samples: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """Returns at most n rows in random order: the same ones whatever the order of the table."""
    drawn = [hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in samples["sample_id"]]
    return samples.with_columns(pl.Series("draw", drawn, pl.String)).sort("draw").head(n).drop("draw")


def look_at(samples: pl.DataFrame, config: RunConfig) -> list[np.ndarray]:
    """Decodes photos for a look at them."""
    paths = [Path(config.dataset.root) / uri for uri in samples["uri"]]
    limits = {"max_pixels": config.dataset.max_pixels, "max_side_px": LOOK_PX}
    return [image for batch in decode_batches(paths, config.compute.batch_size, **limits) for image in batch]


def take_notes(samples: pl.DataFrame, predictions: pl.DataFrame, config: RunConfig) -> dict[str, list[Note]]:
    """Writes notes on photos of every class, as many that were wrong as that were right, if there are.

    Args:
        samples: columns sample_id, uri and label.
        predictions: columns sample_id and correct, of the audited photos.
        config: `propose.evidence` (tags or captions) and `propose.evidence_photos` of each kind.

    Returns:
        Label → notes, right ones first. A class without audited photos has none.

    Raises:
        DataError: captions are wanted and the manifest has none.
    """
    seen = samples.join(predictions, on="sample_id", maintain_order="left")
    captions = _captions(config) if config.propose.evidence == "captions" else None
    notes: dict[str, list[Note]] = {}
    for (label,), mine in sorted(seen.partition_by("label", as_dict=True).items()):
        for correct in (True, False):
            picked = draw(mine.filter(pl.col("correct") == correct), config.propose.evidence_photos, config.seed)
            texts = [captions.get(uri, "") for uri in picked["uri"]] if captions else _tags(picked, config)
            notes.setdefault(str(label), []).extend(Note(text, correct) for text in texts if text)
    return notes


def _tags(picked: pl.DataFrame, config: RunConfig) -> list[str]:
    """Returns each photo's best phrases of the vocabulary, by the offline tagger."""
    if picked.is_empty():
        return []
    from discovery.backends.conse import ConseDetector

    tagger = ConseDetector(config.detect, config.compute)
    phrases = [phrase.text for phrase in read_vocabulary().phrases if tagger.sees(phrase)]
    scores = tagger.tag(look_at(picked, config), phrases)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : config.propose.tags_per_image]
    return [", ".join(phrases[i] for i in row) for row in best]


def _captions(config: RunConfig) -> dict[str, str]:
    captions = read_captions(config.dataset, config.propose.caption_column)
    if not captions:
        raise DataError(
            f"propose.evidence = 'captions' needs a manifest with a column {config.propose.caption_column!r} "
            "(propose.caption_column); write one, or take propose.evidence = 'tags'"
        )
    return captions
