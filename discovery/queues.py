"""Associations + presences → queues: the photos each cue is removed from, pasted into, and cut from."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl

from discovery.config import AblateConfig
from discovery.schema import WHOLE_IMAGE_KINDS
from discovery.tie import tie_of
from discovery.trials import PASTE, REMOVAL

MIN_SOURCES = 3
"""A cue cut from fewer photos would be a test of those patches."""


@dataclass(frozen=True)
class Cut:
    """A photo that a cue is cut from, and the photo that the control is cut from where the first has no room for it.

    Attributes:
        source: the photo that shows the cue.
        donor: a photo of the same class without it that no other source has; None for want of any.
        label: the class of both.
        apart: the donor shows nothing with a like phrase either.
    """

    source: str
    donor: str | None
    label: str
    apart: bool


@dataclass(frozen=True)
class Queues:
    """What may be tried, in the order in which it is.

    Attributes:
        trials: one row per class, cue, way and photo: label, cue_id, phrase, kind, tied, tie_sign, way, sample_id,
            position (in the queue of its class, cue and way; of a paste-in the least over all classes, so that one
            photo comes up for all of them at once), source_id and donor_id (the photos that a pasted cue and its
            control are cut from, else null).
        cuts: cue_id → where it may be cut from, the clearest first; those without a donor come last.
    """

    trials: pl.DataFrame
    cuts: dict[str, list[Cut]]


def find_pairs(associations: pl.DataFrame, config: AblateConfig) -> pl.DataFrame:
    """Returns the classes and cues to be tried: label, cue_id, phrase, kind, n_audit_with, tied, tie_sign.

    A cue whose tie passes `screen_p` may be spurious; the others can at most be `used, not tied here`.
    """
    pairs = associations.filter(pl.col("cramers_v").fill_null(0.0) > 0)
    ties = [tie_of(row) for row in pairs.iter_rows(named=True)]
    pairs = pairs.with_columns(
        tied=pl.Series([tie["p_tied"] <= config.screen_p for tie in ties], dtype=pl.Boolean),
        tie_sign=pl.Series([tie["tie_sign"] for tie in ties], dtype=pl.Float64),
    )
    if not (config.paste and config.untied_images):
        pairs = pairs.filter("tied")
    return pairs.select("label", "cue_id", "phrase", "kind", "n_audit_with", "tied", "tie_sign").sort("label", "cue_id")


def build_queues(
    pairs: pl.DataFrame,
    presences: pl.DataFrame,
    samples: pl.DataFrame,
    near: dict[str, set[str]],
    config: AblateConfig,
) -> Queues:
    """Builds the queues. Samples were shuffled at ingest, so that their order is a random queue.

    Args:
        pairs: as from `find_pairs`.
        presences: cue_id, sample_id, score.
        samples: sample_id, label, audit, in the order of the table.
        near: as from `siblings`.
        config: how many photos per cue, and how many sources.
    """
    photos = _Photos(*(samples[name].to_numpy() for name in ("sample_id", "label", "audit")))
    scores = _scores(presences, samples["sample_id"])
    trials, cuts = [], {}
    for (cue_id,), part in pairs.group_by("cue_id", maintain_order=True):
        shown = scores[cue_id] > -np.inf
        beside = [scores[other] > -np.inf for other in near.get(cue_id, ()) if other != cue_id and other in scores]
        cuts[cue_id] = _cuts(scores[cue_id], np.logical_or.reduce([np.zeros_like(shown), *beside]), photos, config)
        of_cue = part.rows(named=True)
        trials += _removals(of_cue, shown, photos, config)
        if config.paste and len(cuts[cue_id]) >= MIN_SOURCES:
            pasted = _pasted(cuts[cue_id], _home(photos.label, shown), config)
            trials += _pastes(of_cue, ~shown & photos.audit, pasted, photos, config)
    frame = pl.DataFrame(trials, schema=_QUEUE, infer_schema_length=None)
    return Queues(frame.sort("label", "cue_id", maintain_order=True), cuts)


@dataclass(frozen=True)
class _Photos:
    ids: np.ndarray
    label: np.ndarray
    audit: np.ndarray


def _removals(pairs: list[dict], shown: np.ndarray, photos: _Photos, config: AblateConfig) -> list[dict]:
    made = []
    for pair in pairs:
        if pair["tied"] and pair["n_audit_with"] >= config.min_images:
            own = np.flatnonzero((photos.label == pair["label"]) & shown & photos.audit)[: config.images_per_cue]
            made += [_trial(pair, REMOVAL, photos.ids[photo], place) for place, photo in enumerate(own)]
    return made


def _pastes(
    pairs: list[dict], lacking: np.ndarray, cuts: list[Cut], photos: _Photos, config: AblateConfig
) -> list[dict]:
    """One forward pass answers for all classes: a photo has the same source and the same position in all queues."""
    targets = np.flatnonzero(lacking)
    position = np.full(len(targets), len(targets))
    queues = []
    for pair in pairs:
        places = np.flatnonzero(photos.label[targets] != pair["label"])[: config.images_per_cue]
        position[places] = np.minimum(position[places], np.arange(len(places)))
        queues.append(places)
    turn = np.cumsum(np.bincount(np.concatenate(queues), minlength=len(targets)) > 0) - 1
    return [
        _trial(pair, PASTE, photos.ids[targets[place]], int(position[place]), cuts[turn[place] % len(cuts)])
        for pair, places in zip(pairs, queues, strict=True)
        for place in places
    ]


def _cuts(score: np.ndarray, beside: np.ndarray, photos: _Photos, config: AblateConfig) -> list[Cut]:
    """Pairs the photos that show a cue most clearly with photos without it, of the same class and as new to the model.

    What else a photo of the class shows is then alike in the two, but for the cue. No photo is in two pairs, so that
    pairs are independent. Photos without a partner come last; those with like phrases are partners for want of others.
    Of each class there are at most `sources`: a swap wants those of other classes than the clearest may be of.
    """
    shown = score > -np.inf
    free: dict[tuple, list[int]] = {}
    for photo in sorted(np.flatnonzero(~shown).tolist(), key=lambda photo: bool(beside[photo])):
        free.setdefault((photos.label[photo], photos.audit[photo]), []).append(photo)
    waiting = {key: iter(donors) for key, donors in free.items()}
    paired, alone, n_of = [], [], Counter()
    for photo in _clearest(score, shown):
        label = photos.label[photo]
        if n_of[label] == config.sources:
            continue
        donor = next(waiting.get((label, photos.audit[photo]), iter(())), None)
        apart = donor is not None and not beside[donor]
        cut = Cut(photos.ids[photo], None if donor is None else photos.ids[donor], label, apart)
        (alone if donor is None else paired).append(cut)
        n_of[label] += donor is not None
    return paired + alone[: config.sources]


def _home(label: np.ndarray, shown: np.ndarray) -> str:
    """Returns the class of which the largest share shows a cue."""
    names, number, sizes = np.unique(label, return_inverse=True, return_counts=True)
    return str(names[np.argmax(np.bincount(number, shown, len(names)) / sizes)])


def _pasted(cuts: list[Cut], home: str, config: AblateConfig) -> list[Cut]:
    """Picks the photos that a pasted cue is cut from: of the class it is typical of, with a clean control beside.

    A coarse detector sees a race track in a stadium too, and that is not the cue that racing goes with; a donor with a
    highway, or with a racing car, is no control for a race track. Clean pairs of other classes come before such donors.
    """
    tiers = ([], [], [], [])
    for cut in cuts:
        tiers[0 if cut.apart and cut.label == home else 1 if cut.apart else 2 if cut.donor else 3].append(cut)
    return [cut for tier in tiers for cut in tier][: config.sources]


_QUEUE = {
    **dict.fromkeys(("label", "cue_id", "phrase", "kind"), pl.String),
    "tied": pl.Boolean,
    "tie_sign": pl.Float64,
    **dict.fromkeys(("way", "sample_id"), pl.String),
    "position": pl.Int64,
    **dict.fromkeys(("source_id", "donor_id"), pl.String),
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


def _clearest(score: np.ndarray, among: np.ndarray) -> np.ndarray:
    places = np.flatnonzero(among)
    return places[np.argsort(-score[places], kind="stable")]


def _trial(pair: dict, way: str, sample_id: str, position: int, cut: Cut | None = None) -> dict:
    named = {name: pair[name] for name in ("label", "cue_id", "phrase", "kind", "tied", "tie_sign")}
    origin = {"source_id": cut and cut.source, "donor_id": cut and cut.donor}
    return {**named, "way": way, "sample_id": sample_id, "position": position, **origin}
