"""Regions × encoder → `embeddings`: one forward pass per image, features pooled per region."""

from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.checkpoint import checkpoint_state
from discovery.backends.detector import OFFLINE
from discovery.backends.encoder import Embedded, load_encoder
from discovery.images import decode_batches
from discovery.run import Run, Stage
from discovery.schema import CLASS_ITSELF
from discovery.thresholds import PRIORS

BOX = ["x0", "y0", "x1", "y1"]
KNOWN = ["region_id", "sample_id", "attribute_id", "detector", "score"]
SAME_WINDOWS = "conse"
"""The conse detector looks through the same windows as the grid: its regions would be embedded twice."""
LEAST = {name: prior.low for name, prior in PRIORS.items() if name not in OFFLINE}
"""Score below which an open-set detector's box is hardly its phrase: many are written, and each would be a place of its
own among the clustered ones. No threshold is ever learned below it."""


def _work(run: Run, shard: int | None) -> pl.DataFrame:
    config = run.config
    encoder = load_encoder(config.embed.encoder, config.compute)
    samples = run.read("samples", shard=shard, columns=["sample_id", "uri"])
    regions = run.read("regions", shard=shard, columns=[*KNOWN, *BOX])
    regions = regions.filter(pl.col("attribute_id").ne_missing(CLASS_ITSELF))
    least = pl.col("detector").replace_strict(LEAST, default=0.0, return_dtype=pl.Float64)
    likely = (pl.col("detector") != SAME_WINDOWS) & (pl.col("score") >= least).fill_null(True)
    regions = regions.filter(pl.col("x0").is_not_null(), likely)
    of_sample = dict(regions.select("sample_id", "region_id", *BOX).group_by("sample_id", maintain_order=True))
    paths = [Path(config.dataset.root) / uri for uri in samples["uri"]]
    none = regions.clear()
    frames, start = [_frame(none["region_id"], Embedded(np.empty((0, encoder.width)), np.empty(0)))], 0
    for images in decode_batches(paths, config.compute.batch_size, max_pixels=config.dataset.max_pixels):
        ids = samples["sample_id"][start : start + len(images)]
        start += len(images)
        mine = [of_sample.get((sample_id,), none) for sample_id in ids]
        embedded = encoder.embed(images, [part.select(BOX).to_numpy().reshape(-1, 4) for part in mine])
        frames.append(_frame(pl.concat([part["region_id"] for part in mine]), embedded))
    return pl.concat(frames)


def _frame(region_ids: pl.Series, embedded: Embedded) -> pl.DataFrame:
    width = embedded.embedding.shape[1]
    vectors = pl.Series(embedded.embedding.astype(np.float32), dtype=pl.Array(pl.Float32, width))
    return pl.DataFrame({"region_id": region_ids, "embedding": vectors, "norm": embedded.norm.astype(np.float32)})


STAGE = Stage(
    name="embed",
    table="embeddings",
    inputs=("samples", "regions"),
    config=lambda config: (config.embed.model_copy(update={"namer": None}), config.dataset.root),
    work=_work,
    sharded=True,
    outside=lambda config: checkpoint_state(config.embed.encoder),
)
