"""Samples × attributes × detectors → `regions`: each phrase goes to the detector that can see its kind."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.checkpoint import checkpoint_state, read_choice
from discovery.backends.detector import Detector, Phrase, load_detector
from discovery.config import RunConfig
from discovery.images import decode_batches
from discovery.proposals import propose_regions
from discovery.regions import Regions, decode_rle
from discovery.run import Run, Stage


def route(phrases: Sequence[Phrase], detectors: dict[str, Detector]) -> dict[str, list[int]]:
    """Assigns each phrase to the first detector that sees it.

    Args:
        phrases: what is looked for.
        detectors: name → detector, in the order in which they are asked.

    Returns:
        Name → indices of its phrases. A phrase that none of them sees is in no list: it gets no regions.
    """
    assigned: dict[str, list[int]] = {name: [] for name in detectors}
    for index, phrase in enumerate(phrases):
        for name, detector in detectors.items():
            if detector.sees(phrase):
                assigned[name].append(index)
                break
    return assigned


def detect(
    images: Sequence[np.ndarray], phrases: Sequence[Phrase], detectors: dict[str, Detector]
) -> dict[str, Regions]:
    """Finds phrases in a batch, each with its own detector.

    Args:
        images: (H, W, 3) uint8 RGB, sizes may differ.
        phrases: what is looked for.
        detectors: name → detector, in the order in which they are asked.

    Returns:
        Name → regions whose `phrase` indexes `phrases`.
    """
    found = {}
    for name, mine in route(phrases, detectors).items():
        if mine and len(images):
            regions = detectors[name].detect(images, [phrases[i] for i in mine])
            found[name] = replace(regions, phrase=np.array(mine, np.int64)[regions.phrase])
    return found


def area_fracs(found: Regions, images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns (n,) float32 shares of the image that regions cover; 1 for a whole-image cue."""
    areas = np.ones(len(found), np.float32)
    for i, (index, box, rle) in enumerate(zip(found.image, found.xyxy, found.mask_rle, strict=True)):
        if rle is not None:
            areas[i] = decode_rle(rle).mean()
        elif not np.isnan(box).any():
            height, width = images[index].shape[:2]
            areas[i] = (box[2] - box[0]) * (box[3] - box[1]) / (height * width)
    return areas


def _work(run: Run, shard: int | None) -> pl.DataFrame:
    config = run.config
    attributes = run.read("attributes", columns=["attribute_id", "phrase", "kind"]).unique(maintain_order=True)
    phrases = [Phrase(row["phrase"], row["kind"]) for row in attributes.iter_rows(named=True)]
    samples = run.read("samples", shard=shard, columns=["sample_id", "uri"])
    paths = [Path(config.dataset.root) / uri for uri in samples["uri"]]
    batches = decode_batches(paths, config.compute.batch_size, max_pixels=config.dataset.max_pixels)
    detectors, embed = _detectors(config), config.embed
    frames, start = [], 0
    for images in batches:
        ids = samples["sample_id"][start : start + len(images)].to_list()
        start += len(images)
        found = detect(images, phrases, detectors)
        found["agnostic"] = propose_regions(images, grid=embed.grid, superpixels=embed.superpixels)
        frames += [_frame(part, name, ids, attributes["attribute_id"], images) for name, part in found.items()]
    return pl.concat(frames).with_columns(
        region_id=pl.format("{}#{}", "sample_id", pl.int_range(pl.len()).over("sample_id"))
    )


def _detectors(config: RunConfig) -> dict[str, Detector]:
    settings = ["appearance", "text", config.detect.box_detector]
    named = {read_choice(setting).name: setting for setting in settings}
    return {name: load_detector(setting, config.detect, config.compute) for name, setting in named.items()}


def _checkpoints(config: RunConfig) -> object:
    return checkpoint_state(config.detect.box_detector)


def _frame(
    found: Regions, name: str, ids: list[str], attribute_ids: pl.Series, images: Sequence[np.ndarray]
) -> pl.DataFrame:
    boxes = pl.DataFrame(found.xyxy, schema=dict.fromkeys(("x0", "y0", "x1", "y1"), pl.Float32))
    return boxes.fill_nan(None).with_columns(
        sample_id=pl.Series([ids[i] for i in found.image], dtype=pl.String),
        attribute_id=pl.Series([attribute_ids[int(i)] if i >= 0 else None for i in found.phrase], dtype=pl.String),
        detector=pl.lit(name),
        score=pl.Series(found.score, dtype=pl.Float32),
        area_frac=pl.Series(area_fracs(found, images), dtype=pl.Float32),
        mask_rle=pl.Series(list(found.mask_rle), dtype=pl.Binary),
    )


STAGE = Stage(
    name="detect",
    table="regions",
    inputs=("samples", "attributes"),
    config=lambda config: (config.detect, config.embed, config.dataset.root),
    work=_work,
    sharded=True,
    outside=_checkpoints,
)
