"""Regions + clusters → `presences`: which photo shows which cue, after synonyms and repeated clusters are merged."""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse

from discovery.backends.text import load_text
from discovery.config import PresenceConfig
from discovery.run import Run, Stage, frame_of
from discovery.thresholds import Threshold, thresholds

_log = logging.getLogger(__name__)

MERGED_KINDS = ("object", "background", "texture")
"""Kinds whose phrases are matched by meaning, unless they were computed."""
COMPUTED = ("appearance", "text")
"""Detectors whose phrases mean just what they say: "red circle" and "blue circle" are near in any text encoder."""

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
    clusters that repeat it whatever their name (`merge_phi`).

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
    alike = named[:, None] & named[None, :] & ((similarity >= config.merge_similarity) | related)
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
    config = run.config.presence
    samples = run.read("samples", columns=["sample_id", "label"])
    sightings = pl.concat([_from_attributes(run, config), _from_clusters(run, config, samples)])
    if not len(sightings):
        return frame_of("presences", [])
    candidates = sightings.select("phrase", "kind", "source").unique(maintain_order=True).with_row_index("candidate")
    sightings = sightings.join(candidates, on=["phrase", "kind", "source"], maintain_order="left")
    seen = _sighting(candidates, sightings, samples["sample_id"])
    text = load_text(run.config.propose.text, run.config.compute)
    owner = merge(seen, text.encode(seen.phrase), config)
    return _cues(sightings, _named(candidates, owner, run.read("attributes", columns=["phrase", "kind", "label"])))


def _from_attributes(run: Run, config: PresenceConfig) -> pl.DataFrame:
    """Returns one row per region that shows an attribute: its score passes its detector's threshold."""
    attributes = run.read("attributes", columns=["attribute_id", "phrase", "kind"]).unique()
    limits = _limits(run, config)
    columns = ["region_id", "sample_id", "attribute_id", "detector", "score", "agreement"]
    agreed = pl.col("agreement").is_null() | (pl.col("agreement") >= config.min_agreement)
    parts = [
        part.filter(pl.col("attribute_id").is_not_null(), agreed)
        .join(limits, on="detector", maintain_order="left")
        .filter(pl.col("score") >= pl.col("threshold"))
        for part in run.scan("regions", columns)
    ]
    found = pl.concat(parts).join(attributes, on="attribute_id", maintain_order="left")
    computed = pl.when(pl.col("detector").is_in(COMPUTED)).then(pl.lit("computed")).otherwise(pl.lit("attribute"))
    return found.select("phrase", "kind", computed.alias("source"), "sample_id", "region_id", "score", "threshold")


def _limits(run: Run, config: PresenceConfig) -> pl.DataFrame:
    """Returns one row per detector: its name and its threshold."""
    best = [
        part.filter(pl.col("attribute_id").is_not_null())
        .group_by("detector", "sample_id", "attribute_id", maintain_order=True)
        .agg(pl.col("score").max())
        .select("detector", "score")
        for part in run.scan("regions", ["sample_id", "attribute_id", "detector", "score"])
    ]
    scores = {name: part["score"].to_numpy() for (name,), part in pl.concat(best).group_by("detector")}
    found = thresholds(scores, config.thresholds, np.random.default_rng(run.config.seed))
    _log.info("a photo shows a phrase from a score of: %s", ", ".join(_said(*item) for item in found.items()))
    rows = {"detector": list(found), "threshold": [threshold.value for threshold in found.values()]}
    return pl.DataFrame(rows, schema={"detector": pl.String, "threshold": pl.Float64})


def _said(detector: str, threshold: Threshold) -> str:
    return f"{detector} {threshold.value:g} ({threshold.origin})"


def _from_clusters(run: Run, config: PresenceConfig, samples: pl.DataFrame) -> pl.DataFrame:
    """Returns one row per class-agnostic region in a named cluster that is not too rare in every class.

    A detected region that falls into a cluster is the detector's cue already, and its outline is another one.
    """
    columns = ["region_id", "sample_id", "attribute_id"]
    parts = [part.filter(pl.col("attribute_id").is_null()) for part in run.scan("regions", columns)]
    of_region = pl.concat(parts).drop("attribute_id")
    found = run.read("clusters", columns=["region_id", "distance", "phrase", "kind"])
    found = found.filter(pl.col("phrase").is_not_null())
    found = found.join(of_region, on="region_id", maintain_order="left")
    sizes = samples.group_by("label").len("n_class")
    shares = (
        found.select("phrase", "sample_id").unique().join(samples, on="sample_id").group_by("phrase", "label").len("n")
    )
    common = shares.join(sizes, on="label").filter(pl.col("n") / pl.col("n_class") >= config.min_cluster_share)
    found = found.join(common.select("phrase").unique(), on="phrase", how="semi", maintain_order="left")
    score, limit = (1 - pl.col("distance")).alias("score"), pl.lit(None, pl.Float64).alias("threshold")
    return found.select("phrase", "kind", pl.lit("cluster").alias("source"), "sample_id", "region_id", score, limit)


def _sighting(candidates: pl.DataFrame, sightings: pl.DataFrame, sample_ids: pl.Series) -> Sighting:
    column = dict(zip(sample_ids, range(len(sample_ids)), strict=True))
    pairs = sightings.group_by("candidate", "sample_id", maintain_order=True).agg(pl.col("score").max())
    rows = pairs["candidate"].to_numpy()
    columns = np.array([column[s] for s in pairs["sample_id"]], np.int64)
    shown = sparse.csr_matrix((np.ones(len(rows), bool), (rows, columns)), (len(candidates), len(sample_ids)))
    strength = np.bincount(rows, pairs["score"].to_numpy(), len(candidates))
    return Sighting(*(candidates[name].to_list() for name in ("phrase", "kind", "source")), shown, strength)


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
        .sort("cue_id", "sample_id")
    )


STAGE = Stage(
    name="presence",
    table="presences",
    inputs=("samples", "attributes", "regions", "clusters"),
    config=lambda config: (config.presence, config.propose.text),
    work=_work,
)
