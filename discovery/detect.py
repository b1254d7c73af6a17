"""Samples × attributes × detectors → `regions`: each phrase goes to the detector that can see its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl

from discovery.backends.checkpoint import checkpoint_state, read_choice
from discovery.backends.detector import Detector, Phrase, load_detector
from discovery.backends.detector_exemplar import read_exemplars
from discovery.config import RunConfig
from discovery.errors import ConfigError
from discovery.images import decode_batches
from discovery.objects import class_phrases, pick_own
from discovery.proposals import propose_regions
from discovery.regions import Regions, best_iou, decode_rle, pick
from discovery.run import Run, Stage, file_state
from discovery.schema import CLASS_ITSELF
from discovery.thresholds import OTHER, PRIORS


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
    images: Sequence[np.ndarray],
    phrases: Sequence[Phrase],
    detectors: dict[str, Detector],
    also: Mapping[str, Sequence[Phrase]] = MappingProxyType({}),
) -> dict[str, Regions]:
    """Finds phrases in a batch, each with its own detector.

    Args:
        images: (H, W, 3) uint8 RGB, sizes may differ.
        phrases: what is looked for.
        detectors: name → detector, in the order in which they are asked.
        also: name → phrases that this detector is asked as well, whatever sees them.

    Returns:
        Name → regions whose `phrase` indexes `phrases`, and goes on to count those of `also`.
    """
    found = {}
    for name, seen in route(phrases, detectors).items():
        more = also.get(name, ())
        asked = [*(phrases[i] for i in seen), *more]
        mine = [*seen, *range(len(phrases), len(phrases) + len(more))]
        if asked and len(images):
            regions = detectors[name].detect(images, asked)
            found[name] = replace(regions, phrase=np.array(mine, np.int64)[regions.phrase])
    return found


def vote(images: Sequence[np.ndarray], phrases: Sequence[Phrase], found: Regions, other: Detector, floor: float):
    """Returns (n,) float32 agreement of regions with a second detector: best IoU with its boxes of the same phrase.

    Args:
        images: (H, W, 3) uint8 RGB.
        phrases: what was looked for; those that the second detector cannot see are not voted on (NaN).
        found: regions whose `phrase` indexes `phrases`.
        other: the second detector.
        floor: score from which its boxes count.
    """
    asked = [int(p) for p in np.unique(found.phrase) if other.sees(phrases[p])]
    seconds = other.detect(images, [phrases[p] for p in asked])
    seconds = replace(seconds, phrase=np.array(asked, np.int64)[seconds.phrase])
    agreement = best_iou(found, pick(seconds, seconds.score >= floor))
    return np.where(np.isin(found.phrase, asked), agreement, np.nan).astype(np.float32)


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
    classes = sorted(run.read("samples", columns=["label"])["label"].drop_nulls().unique())
    names = class_phrases(classes, config)
    attribute_ids = [*attributes["attribute_id"], *[CLASS_ITSELF] * len(names)]
    samples = run.read("samples", shard=shard, columns=["sample_id", "uri", "label"])
    paths = [Path(config.dataset.root) / uri for uri in samples["uri"]]
    batches = decode_batches(paths, config.compute.batch_size, max_pixels=config.dataset.max_pixels)
    detectors, embed, first = _detectors(config), config.embed, _named(config.detect.box_detector)
    second, floor = _second(config)
    frames, start = [], 0
    for images in batches:
        rows = samples[start : start + len(images)]
        start += len(images)
        found = detect(images, phrases, detectors, {first: names})
        own = [(first, pick_own(found[first], len(phrases), rows["label"], classes))] if names else []
        found = {name: pick(part, part.phrase < len(phrases)) for name, part in found.items()}
        votes = {name: vote(images, phrases, found[name], second, floor) for name in found if second and name == first}
        found["agnostic"] = propose_regions(images, grid=embed.grid, superpixels=embed.superpixels)
        frames += [
            _frame(part, name, rows["sample_id"], attribute_ids, images).with_columns(
                agreement=pl.Series(votes.get(name, [None] * len(part)), dtype=pl.Float32)
            )
            for name, part in found.items()
        ]
        frames += [_frame(part, name, rows["sample_id"], attribute_ids, images) for name, part in own]
    return pl.concat(frames, how="diagonal").with_columns(
        region_id=pl.format("{}#{}", "sample_id", pl.int_range(pl.len()).over("sample_id"))
    )


def _detectors(config: RunConfig) -> dict[str, Detector]:
    settings = ["appearance", "text", config.detect.box_detector]
    if config.detect.exemplars:
        settings.insert(0, f"exemplar:{config.detect.exemplar_model}")
    named = {_named(setting): setting for setting in settings}
    return {name: load_detector(setting, config.detect, config.compute) for name, setting in named.items()}


def _named(setting: str) -> str:
    """Returns what `regions` calls a detector; scores under one name must be comparable."""
    choice = read_choice(setting)
    return "exemplar_owlv2" if setting.startswith("exemplar:owlv2") else choice.name


def _second(config: RunConfig) -> tuple[Detector | None, float]:
    """Returns the detector that votes on the box detector's regions, and the score from which its boxes count."""
    setting = config.detect.vote_with
    if not setting:
        return None, 0.0
    if setting == config.detect.box_detector:
        raise ConfigError(f"detect.vote_with = {setting!r} is the box detector itself; name another one")
    prior = PRIORS.get(_named(setting), OTHER)
    return load_detector(setting, config.detect, config.compute), prior.value


def _outside(config: RunConfig) -> object:
    """Returns the state of the checkpoints and pictures that are read."""
    detect = config.detect
    settings = [detect.box_detector, detect.vote_with or "", detect.text_model or ""]
    pictures = []
    if detect.exemplars:
        settings.append(detect.exemplar_model)
        pictures = [file_state(file) for files in read_exemplars(detect.exemplars).values() for file in files]
    return [checkpoint_state(setting) for setting in settings], pictures


def _frame(
    found: Regions, name: str, ids: Sequence[str], attribute_ids: Sequence[str], images: Sequence[np.ndarray]
) -> pl.DataFrame:
    boxes = pl.DataFrame(found.xyxy, schema=dict.fromkeys(("x0", "y0", "x1", "y1"), pl.Float32))
    return boxes.fill_nan(None).with_columns(
        sample_id=pl.Series([ids[int(i)] for i in found.image], dtype=pl.String),
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
    config=lambda config: (config.detect, config.embed, config.dataset.root, config.ablate.object),
    work=_work,
    sharded=True,
    outside=_outside,
)
