"""Exemplars of clusters → their names: the phrase that they score highest, asked of an encoder that knows text."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.encoder import Embedded, Encoder, load_encoder
from discovery.images import decode_batches
from discovery.run import Run
from discovery.vocabulary import read_vocabulary

NAMED_KINDS = ("object", "background", "texture")
NAMER = "efficientnet_lite0"
"""Names the clusters of an encoder that knows no text, unless `embed.namer` says otherwise."""
LOOKED_AT = 10
"""Exemplars of a cluster that another encoder looks at again."""
BOX = ["x0", "y0", "x1", "y1"]


@dataclass(frozen=True)
class Exemplars:
    """Regions and their embeddings, the nearest to a cluster's centroid first.

    Attributes:
        region_id: (n,) str.
        embedded: of the same n regions.
    """

    region_id: np.ndarray
    embedded: Embedded

    def pick(self, at: np.ndarray) -> "Exemplars":
        """Returns those at (m,) int positions, in that order."""
        return Exemplars(self.region_id[at], Embedded(self.embedded.embedding[at], self.embedded.norm[at]))


def name_clusters(run: Run, exemplars: dict[int, Exemplars]) -> dict[int, tuple[str, str]]:
    """Names each cluster by the phrase, and its kind, that its exemplars score highest on average.

    An encoder that knows no text leaves the naming to another one, which looks at the same regions again.

    Args:
        run: whose vocabulary and attributes are the phrases.
        exemplars: cluster → its exemplars.
    """
    config = run.config
    encoder = load_encoder(config.embed.encoder, config.compute)
    namer = config.embed.namer or (config.embed.encoder if encoder.speaks else NAMER)
    found = {cluster_id: regions.embedded for cluster_id, regions in exemplars.items()}
    if namer != config.embed.encoder:
        encoder = load_encoder(namer, config.compute)
        found = _seen_again(run, encoder, exemplars)
    phrases = _phrases(run)
    texts = [text for text, _ in phrases]
    return {
        cluster_id: phrases[int(encoder.scores(embedded, texts).mean(axis=0).argmax())]
        for cluster_id, embedded in found.items()
    }


def _seen_again(run: Run, encoder: Encoder, exemplars: dict[int, Exemplars]) -> dict[int, Embedded]:
    """Embeds the first exemplars of each cluster with another encoder; each photo is opened once."""
    config = run.config
    chosen = {cluster_id: regions.region_id[:LOOKED_AT].tolist() for cluster_id, regions in exemplars.items()}
    wanted = pl.Series([region_id for ids in chosen.values() for region_id in ids], dtype=pl.String)
    parts = run.scan("regions", ["region_id", "sample_id", *BOX])
    regions = pl.concat([part.filter(pl.col("region_id").is_in(wanted.implode())) for part in parts])
    photos = regions.join(run.read("samples", columns=["sample_id", "uri"]), on="sample_id", maintain_order="left")
    groups = [part for _, part in photos.group_by("uri", maintain_order=True)]
    paths = [Path(config.dataset.root) / part["uri"][0] for part in groups]
    vectors, norms, start = [], [], 0
    for images in decode_batches(paths, config.compute.batch_size, max_pixels=config.dataset.max_pixels):
        mine = groups[start : start + len(images)]
        start += len(images)
        embedded = encoder.embed(images, [part.select(BOX).to_numpy().reshape(-1, 4) for part in mine])
        vectors.append(embedded.embedding)
        norms.append(embedded.norm)
    row = {region_id: i for i, region_id in enumerate(pl.concat(groups)["region_id"])}
    every = Exemplars(np.array(list(row)), Embedded(np.concatenate(vectors), np.concatenate(norms)))
    return {key: every.pick(np.array([row[region_id] for region_id in ids])).embedded for key, ids in chosen.items()}


def _phrases(run: Run) -> list[tuple[str, str]]:
    """Returns the vocabulary and the run's own attributes, of the kinds that a region can be named by."""
    listed = [(p.text, p.kind) for p in read_vocabulary().phrases]
    proposed = run.read("attributes", columns=["phrase", "kind"]).unique(maintain_order=True).rows()
    return [(text, kind) for text, kind in dict(proposed + listed).items() if kind in NAMED_KINDS]
