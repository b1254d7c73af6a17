"""Associations + presences → queues: the photos each cue is removed from, pasted into, and cut from."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from discovery.config import AblateConfig
from discovery.schema import WHOLE_IMAGE_KINDS
from discovery.trials import PASTE, REMOVAL

MIN_SOURCES = 3
"""A cue cut from fewer photos would be a test of those patches."""


ROOMY_FRAC = 0.45
"""A photo filled to a larger share by a cue is no source of it."""


@dataclass(frozen=True)
class Queues:
    """What may be tried, in the order in which it is.

    Attributes:
        trials: one row per class, cue, way and photo: label, cue_id, phrase, kind, tied, way, sample_id, position (in
            the queue of its class, cue and way) and source_id (the photo that a pasted cue is cut from, else null).
        showing: (label, cue_id) → photos of other classes with the cue, the clearest first.
        lacking: (label, cue_id) → photos of other classes without it.
    """

    trials: pl.DataFrame
    showing: dict[tuple[str, str], list[str]]
    lacking: dict[tuple[str, str], list[str]]


def find_pairs(associations: pl.DataFrame, config: AblateConfig) -> pl.DataFrame:
    """Returns the classes and cues to be tried: label, cue_id, phrase, kind, n_audit_with, tied.

    A cue whose tie passes `screen_p` may be spurious; the others can at most be `used, not tied here`.
    """
    tie = pl.min_horizontal("bias_p", "gap_p_maxt").fill_null(1.0) * 2
    pairs = associations.filter(pl.col("cramers_v").fill_null(0.0) > 0).with_columns(tied=tie <= config.screen_p)
    if not (config.paste and config.untied_images):
        pairs = pairs.filter("tied")
    return pairs.select("label", "cue_id", "phrase", "kind", "n_audit_with", "tied").sort("label", "cue_id")


def build_queues(pairs: pl.DataFrame, presences: pl.DataFrame, samples: pl.DataFrame, config: AblateConfig) -> Queues:
    """Builds the queues. Samples were shuffled at ingest, so that their order is a random queue.

    Args:
        pairs: as from `find_pairs`.
        presences: cue_id, sample_id, score, and `area_frac`, the share of the photo that the cue fills.
        samples: sample_id, label, audit, in the order of the table.
        config: how many photos per cue, and how many sources.
    """
    ids, label = samples["sample_id"].to_numpy(), samples["label"].to_numpy()
    audit = samples["audit"].to_numpy()
    scores = _scores(presences, samples["sample_id"])
    roomy = _scores(presences.filter(pl.col("area_frac") <= ROOMY_FRAC), samples["sample_id"])
    nowhere = np.full(len(samples), -np.inf)
    trials, showing, lacking = [], {}, {}
    for pair in pairs.iter_rows(named=True):
        key = (pair["label"], pair["cue_id"])
        score = scores[pair["cue_id"]]
        own, shown = label == pair["label"], score > -np.inf
        donors = _clearest(score, shown & ~own, config.sources)
        showing[key] = ids[donors].tolist()
        lacking[key] = ids[np.flatnonzero(~own & ~shown)[: config.sources]].tolist()
        named = {name: pair[name] for name in ("label", "cue_id", "phrase", "kind", "tied")}
        if pair["tied"] and pair["n_audit_with"] >= config.min_images:
            photos = np.flatnonzero(own & shown & audit)[: config.images_per_cue]
            trials += [_trial(named, REMOVAL, ids[photo], place, None) for place, photo in enumerate(photos)]
        # A photo that the cue fills has no room for a control: it is a source only for want of others.
        room = roomy.get(pair["cue_id"], nowhere)
        sources = _clearest(room, room > -np.inf, config.sources)
        if len(sources) < MIN_SOURCES:
            sources = _clearest(score, shown, config.sources)
        if config.paste and len(sources) >= MIN_SOURCES:
            photos = np.flatnonzero(~own & ~shown & audit)[: config.images_per_cue]
            for place, photo in enumerate(photos):
                trials.append(_trial(named, PASTE, ids[photo], place, ids[sources[place % len(sources)]]))
    return Queues(pl.DataFrame(trials, schema=_QUEUE, infer_schema_length=None), showing, lacking)


_QUEUE = {
    **dict.fromkeys(("label", "cue_id", "phrase", "kind"), pl.String),
    "tied": pl.Boolean,
    **dict.fromkeys(("way", "sample_id"), pl.String),
    "position": pl.Int64,
    "source_id": pl.String,
}


def siblings(cues: pl.DataFrame, embeddings: np.ndarray, similarity: float) -> dict[str, set[str]]:
    """Returns for each cue with a place those that mean nearly the same: no control may hold a part of them.

    Args:
        cues: cue_id and kind.
        embeddings: (n, d) unit-norm text embeddings of their phrases.
        similarity: cosine from which two phrases are siblings.
    """
    placed = ~cues["kind"].is_in(list(WHOLE_IMAGE_KINDS)).to_numpy()
    alike = (embeddings @ embeddings.T >= similarity) & placed[None, :] & placed[:, None]
    ids = cues["cue_id"].to_list()
    return {cue: {ids[j] for j in np.flatnonzero(row)} for cue, row in zip(ids, alike, strict=True)}


def _scores(presences: pl.DataFrame, sample_ids: pl.Series) -> dict[str, np.ndarray]:
    """Returns per cue the (photos,) scores; -inf where it is absent."""
    order = pl.DataFrame({"sample_id": sample_ids}).with_row_index("order")
    placed = presences.join(order, on="sample_id")
    scores = {}
    for (cue_id,), part in placed.group_by("cue_id"):
        scores[cue_id] = np.full(len(sample_ids), -np.inf)
        scores[cue_id][part["order"].to_numpy()] = part["score"].fill_null(0.0).to_numpy()
    return scores


def _clearest(score: np.ndarray, among: np.ndarray, n: int) -> np.ndarray:
    places = np.flatnonzero(among)
    return places[np.argsort(-score[places], kind="stable")[:n]]


def _trial(named: dict, way: str, sample_id: str, position: int, source_id: str | None) -> dict:
    return {**named, "way": way, "sample_id": sample_id, "position": position, "source_id": source_id}
