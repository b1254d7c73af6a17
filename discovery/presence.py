"""Regions + clusters → `presences`: which photo shows which cue, after synonyms and repeated clusters are merged."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse

from discovery.backends.text import load_text
from discovery.config import PresenceConfig
from discovery.run import Run, Stage, frame_of
from discovery.thresholds import ASKED_FOR, Threshold, run_thresholds

_log = logging.getLogger(__name__)

MERGED_KINDS = ("object", "background", "texture")
"""Kinds whose phrases are matched by meaning, unless they were computed."""
COMPUTED = ("appearance", "text")
"""Detectors whose phrases mean just what they say: "red circle" and "blue circle" are near in any text encoder."""

CANDIDATE = ["phrase", "kind", "source"]
SOURCES = ("computed", "attribute", "cluster")
SHOWN = {"computed": "attribute", "attribute": "attribute", "cluster": "cluster"}


@dataclass(frozen=True)
class Sighting:
    """Candidates before merging: each a phrase, a kind, a source and the photos that show it.

    Attributes:
        phrase: n phrases.
        kind: n kinds.
        source: n of "computed" (an attribute with sharp regions), "attribute" or "cluster".
        shown: (n, photos) sparse bool.
        strength: (n,) sum over photos of the best score of a region: a cue is named by its strongest phrase.
    """

    phrase: list[str]
    kind: list[str]
    source: list[str]
    shown: sparse.csr_matrix
    strength: np.ndarray


def merge(seen: Sighting, embeddings: np.ndarray, config: PresenceConfig) -> np.ndarray:
    """Returns (n,) int: for each candidate the index of the candidate whose cue it joins.

    Candidates are taken from the strongest one on; each takes in synonyms (phrases at least `merge_similarity`
    alike), phrases of related meaning that are seen in the same photos (`related_similarity` and `related_phi`), and
    clusters that repeat it whatever their name (`merge_phi`). A thing and a place are never synonyms: a baseball is
    part of throwing, and a baseball field is not.

    Args:
        seen: the candidates.
        embeddings: (n, d) unit-norm text embeddings of their phrases.
        config: the thresholds.
    """
    n = len(seen.phrase)
    by_meaning = [k in MERGED_KINDS and s != "computed" for k, s in zip(seen.kind, seen.source, strict=True)]
    named = np.array(by_meaning)
    words = np.array([f"{kind}:{phrase}" for phrase, kind in zip(seen.phrase, seen.kind, strict=True)])
    similarity, phi = embeddings @ embeddings.T, _phi(seen.shown)
    related = (similarity >= config.related_similarity) & (phi >= config.related_phi)
    thing, place = (np.array([k == kind for k in seen.kind]) for kind in ("object", "background"))
    apart = (thing[:, None] & place[None, :]) | (place[:, None] & thing[None, :])
    alike = named[:, None] & named[None, :] & ~apart & ((similarity >= config.merge_similarity) | related)
    standing = np.array([SOURCES.index(source) for source in seen.source])
    repeats = (standing == SOURCES.index("cluster"))[None, :] & (phi >= config.merge_phi)
    joins = (words[:, None] == words[None, :]) | alike | repeats
    owner = np.full(n, -1)
    # What was computed names a cue before what was guessed, and what was asked for before a cluster.
    for leader in np.lexsort((seen.phrase, -seen.strength, standing)):
        if owner[leader] < 0:
            owner[(owner < 0) & joins[leader]] = leader
            owner[leader] = leader
    return owner


def cue_id(phrase: str, kind: str) -> str:
    """Returns a short stable name for a phrase and its kind."""
    return hashlib.sha256(f"{kind}\n{phrase}".encode()).hexdigest()[:12]


def _phi(shown: sparse.csr_matrix) -> np.ndarray:
    """Returns the (n, n) Pearson correlations of presences; 0 where one never varies."""
    n_photos = shown.shape[1]
    counts = np.asarray(shown.sum(axis=1)).ravel().astype(float)
    both = (shown.astype(np.float32) @ shown.astype(np.float32).T).toarray()
    spread = np.sqrt(counts * (n_photos - counts))
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = (n_photos * both - np.outer(counts, counts)) / np.outer(spread, spread)
    return np.nan_to_num(phi, nan=0.0, posinf=0.0, neginf=0.0)


def _work(run: Run, _: int | None) -> pl.DataFrame:
    samples = run.read("samples", columns=["sample_id", "label"]).with_row_index("column")
    shards = _Shards(run, samples)
    candidates, pairs = _pairs(shards, samples)
    if not len(candidates):
        return frame_of("presences", [])
    seen = _sighting(candidates, pairs, len(samples))
    text = load_text(run.config.propose.text, run.config.compute)
    owner = merge(seen, text.encode(seen.phrase), run.config.presence)
    named = _named(candidates, owner, run.read("attributes", columns=["phrase", "kind", "label"]))
    parts = [_let_go(_cues(part.join(candidates, on=CANDIDATE), named)) for part in shards]
    return pl.concat(parts).sort("cue_id", "sample_id")


def _let_go(frame: pl.DataFrame) -> pl.DataFrame:
    """Copies a frame's strings: those of a filtered frame keep alive all that they were filtered from."""
    return pl.from_arrow(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))


class _Shards:
    """The sightings shard by shard, as often as they are wanted: a large dataset has too many to hold them all.

    A sighting is a region that shows an attribute (its score passes its detector's threshold), or one in a named
    cluster. Columns: phrase, kind, source, sample_id, region_id, score, threshold.
    """

    def __init__(self, run: Run, samples: pl.DataFrame) -> None:
        self._run = run
        self._limits = _limits(run)
        self._attributes = run.read("attributes", columns=["attribute_id", "phrase", "kind"]).unique()
        self._clusters = _from_clusters(run, run.config.presence, samples)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        columns = ["region_id", "sample_id", "attribute_id", "detector", "score", "agreement"]
        for number, part in enumerate(self._run.scan("regions", columns)):
            found = [self._from_attributes(part)]
            yield pl.concat([*found, self._clusters[number]] if number in self._clusters else found)

    def _from_attributes(self, part: pl.DataFrame) -> pl.DataFrame:
        agreed = pl.col("agreement").is_null() | (pl.col("agreement") >= self._run.config.presence.min_agreement)
        found = (
            part.filter(ASKED_FOR, agreed)
            .join(self._limits, on="detector", maintain_order="left")
            .filter(pl.col("score") >= pl.col("threshold"))
            .join(self._attributes, on="attribute_id", maintain_order="left")
        )
        computed = pl.when(pl.col("detector").is_in(COMPUTED)).then(pl.lit("computed")).otherwise(pl.lit("attribute"))
        return found.select("phrase", "kind", computed.alias("source"), "sample_id", "region_id", "score", "threshold")


def _pairs(shards: Iterable[pl.DataFrame], samples: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns the candidates (`CANDIDATE` and their number), and candidate, column, best score of each photo's."""
    number: dict[tuple[str, str, str], int] = {}
    pairs = []
    for part in shards:
        best = part.group_by(*CANDIDATE, "sample_id", maintain_order=True).agg(pl.col("score").max())
        for found in best.select(CANDIDATE).unique(maintain_order=True).iter_rows():
            number.setdefault(found, len(number))
        best = best.join(_numbered(number), on=CANDIDATE, maintain_order="left")
        pairs.append(best.join(samples, on="sample_id", maintain_order="left").select("candidate", "column", "score"))
    return _numbered(number), pl.concat(pairs) if pairs else pl.DataFrame()


def _numbered(number: dict[tuple[str, str, str], int]) -> pl.DataFrame:
    schema = dict.fromkeys(CANDIDATE, pl.String)
    return pl.DataFrame(list(number), schema=schema, orient="row").with_row_index("candidate")


def _limits(run: Run) -> pl.DataFrame:
    """Returns one row per detector: its name and its threshold."""
    found = run_thresholds(run)
    _log.info("a photo shows a phrase from a score of: %s", ", ".join(_said(*item) for item in found.items()))
    rows = {"detector": list(found), "threshold": [threshold.value for threshold in found.values()]}
    return pl.DataFrame(rows, schema={"detector": pl.String, "threshold": pl.Float64})


def _said(detector: str, threshold: Threshold) -> str:
    return f"{detector} {threshold.value:g} ({threshold.origin})"


def _from_clusters(run: Run, config: PresenceConfig, samples: pl.DataFrame) -> dict[int, pl.DataFrame]:
    """Returns, per part of the regions, one row per class-agnostic one in a named cluster not too rare in every class.

    A detected region that falls into a cluster is the detector's cue already, and its outline is another one.
    """
    parts = [
        _let_go(part.filter(pl.col("attribute_id").is_null()).drop("attribute_id")).with_columns(
            part=pl.lit(number, pl.UInt32)
        )
        for number, part in enumerate(run.scan("regions", ["region_id", "sample_id", "attribute_id"]))
    ]
    found = run.read("clusters", columns=["region_id", "distance", "phrase", "kind"])
    found = found.filter(pl.col("phrase").is_not_null())
    found = found.join(pl.concat(parts), on="region_id", maintain_order="left")
    sizes = samples.group_by("label").len("n_class")
    shares = (
        found.select("phrase", "sample_id").unique().join(samples, on="sample_id").group_by("phrase", "label").len("n")
    )
    common = shares.join(sizes, on="label").filter(pl.col("n") / pl.col("n_class") >= config.min_cluster_share)
    found = found.join(common.select("phrase").unique(), on="phrase", how="semi", maintain_order="left")
    score, limit = (1 - pl.col("distance")).alias("score"), pl.lit(None, pl.Float64).alias("threshold")
    source = pl.lit("cluster").alias("source")
    found = found.select("part", "phrase", "kind", source, "sample_id", "region_id", score, limit)
    return {number: mine.drop("part") for (number,), mine in found.group_by("part", maintain_order=True)}


def _sighting(candidates: pl.DataFrame, pairs: pl.DataFrame, n_photos: int) -> Sighting:
    rows, columns = pairs["candidate"].to_numpy(), pairs["column"].to_numpy()
    shown = sparse.csr_matrix((np.ones(len(rows), bool), (rows, columns)), (len(candidates), n_photos))
    strength = np.bincount(rows, pairs["score"].to_numpy(), len(candidates))
    return Sighting(*(candidates[name].to_list() for name in CANDIDATE), shown, strength)


def _named(candidates: pl.DataFrame, owner: np.ndarray, attributes: pl.DataFrame) -> pl.DataFrame:
    """Returns per candidate the cue it belongs to: its words, its sources, and the classes it was proposed for."""
    proposed = attributes.group_by("phrase", "kind").agg(pl.col("label").unique())
    members = candidates.join(proposed, on=["phrase", "kind"], how="left", maintain_order="left")
    rows = members.rows(named=True)
    named = []
    for row, leader in zip(rows, owner.tolist(), strict=True):
        mine = [other for other, at in zip(rows, owner.tolist(), strict=True) if at == leader]
        first = rows[leader]
        # A cluster was proposed for no class in particular: its cue is tried against every class.
        for_all = first["source"] != "computed" and any(other["source"] == "cluster" for other in mine)
        labels = [] if for_all else sorted({label for other in mine for label in other["label"] or ()})
        named.append(
            {
                "candidate": row["candidate"],
                "cue_id": cue_id(first["phrase"], first["kind"]),
                "cue_phrase": first["phrase"],
                "cue_kind": first["kind"],
                "cue_source": "+".join(sorted({SHOWN[other["source"]] for other in mine})),
                # A coarse cluster that repeats a computed cue confirms it, and would only blur its regions.
                "counts": first["source"] != "computed" or row["source"] == "computed",
                "labels": labels,
                "phrases": sorted({other["phrase"] for other in mine}),
            }
        )
    schema = {"candidate": candidates["candidate"].dtype, "labels": pl.List(pl.String), "phrases": pl.List(pl.String)}
    return pl.from_dicts(named, schema_overrides=schema)


def _cues(sightings: pl.DataFrame, named: pl.DataFrame) -> pl.DataFrame:
    """Groups sightings by the cue they belong to: one row per cue and photo, its regions united."""
    return (
        sightings.drop("phrase", "kind", "source")
        .join(named, on="candidate", maintain_order="left")
        .filter("counts")
        .group_by("cue_id", "sample_id", maintain_order=True)
        .agg(
            pl.col("cue_phrase").first().alias("phrase"),
            pl.col("cue_kind").first().alias("kind"),
            pl.col("cue_source").first().alias("source"),
            pl.col("labels").first(),
            pl.col("phrases").first(),
            pl.col("score").max(),
            pl.col("threshold").max(),
            pl.col("region_id").unique(maintain_order=True).alias("region_ids"),
        )
    )


STAGE = Stage(
    name="presence",
    table="presences",
    inputs=("samples", "attributes", "regions", "clusters"),
    config=lambda config: (config.presence, config.propose.text),
    work=_work,
)
