"""Folder or manifest → `samples`: every image decoded once to check it, and drawn into fitted and audited."""

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from discovery.config import DatasetConfig, RunConfig
from discovery.errors import DataError
from discovery.images import decode_image, map_ahead
from discovery.listing import list_samples, listing_state
from discovery.run import Run, Stage
from discovery.schema import OBJECT_BOX, TABLES

CHECKED_AHEAD = 64
NAMED = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ingested:
    """What a dataset holds.

    Attributes:
        samples: the `samples` table, one row per readable image, shuffled.
        skipped: columns uri and reason, one row per image that could not be read.
    """

    samples: pl.DataFrame
    skipped: pl.DataFrame


def ingest(config: DatasetConfig, seed: int) -> Ingested:
    """Lists a dataset, decodes every image once, and draws which samples are audited.

    Object boxes are clipped to their image; a box that is incomplete or empty after that becomes null.

    Args:
        config: where the images are and how they are shared out.
        seed: of the draw and of the order of the samples.

    Raises:
        DataError: the folder or manifest cannot be used, too many images cannot be read, there are fewer than
            two classes, a class has too few images, or no sample would be audited.
    """
    found = _check_images(config)
    _refuse_bad(found, config)
    return _share_out(found, config, seed)


def _work(run: Run, _: int | None) -> pl.DataFrame:
    config = run.config.dataset
    found = _check_images(config)
    run.write_text("skipped.csv", found.skipped.write_csv())  # before a refusal, which it explains
    _refuse_bad(found, config)
    return _share_out(found, config, run.config.seed).samples


def _listing(config: RunConfig) -> str:
    """Returns a hash that changes when an image or the manifest is added, removed or written."""
    state = listing_state(config.dataset)
    return hashlib.sha256(repr(state).encode("utf-8", "surrogateescape")).hexdigest()[:24]


STAGE = Stage(
    name="ingest",
    table="samples",
    inputs=(),
    config=lambda config: (config.dataset, config.model.kind),
    work=_work,
    outside=_listing,
)


def _check_images(config: DatasetConfig) -> Ingested:
    """Decodes every listed image, and keeps its size or the reason why it has none."""
    listed = list_samples(config)
    root = Path(config.root)
    check = partial(_size_or_reason, max_pixels=config.max_pixels)
    checked = list(map_ahead(check, (root / uri for uri in listed["uri"]), ahead=CHECKED_AHEAD))
    columns = {"width_px": pl.Int32, "height_px": pl.Int32, "reason": pl.String}
    frame = pl.concat([listed, pl.DataFrame(checked, schema=columns, orient="row")], how="horizontal")
    good = frame.filter(pl.col("reason").is_null()).drop("reason")
    return Ingested(_clip_boxes(good), frame.filter(pl.col("reason").is_not_null()).select("uri", "reason"))


def _size_or_reason(path: Path, *, max_pixels: int) -> tuple[int | None, int | None, str | None]:
    try:
        height, width = decode_image(path, max_pixels=max_pixels).shape[:2]
    except DataError as error:
        return None, None, str(error)
    return width, height, None


def _clip_boxes(good: pl.DataFrame) -> pl.DataFrame:
    """Clips object boxes to their image; incomplete and empty ones become null."""
    x0, y0, x1, y1 = (pl.col(name) for name in OBJECT_BOX)
    limits = zip((x0, y0, x1, y1), ("width_px", "height_px") * 2, strict=True)
    clipped = good.with_columns(box.clip(0, pl.col(limit).cast(pl.Float32)) for box, limit in limits)
    sized = ((x1 > x0) & (y1 > y0)).fill_null(value=False)
    kept = clipped.with_columns(pl.when(sized).then(pl.col(name)).alias(name) for name in OBJECT_BOX)
    lost = good.select(pl.any_horizontal(pl.col(OBJECT_BOX).is_not_null()).sum()).item() - kept[OBJECT_BOX[0]].count()
    if lost:
        _log.warning("%d object boxes are incomplete or lie outside their image; they are ignored", lost)
    return kept


def _refuse_bad(found: Ingested, config: DatasetConfig) -> None:
    """Stops when too many images are bad, or when the good ones cannot be compared."""
    bad, total = len(found.skipped), len(found.skipped) + len(found.samples)
    if bad > config.max_bad_frac * total:
        shown = "; ".join(f"{uri}: {reason}" for uri, reason in found.skipped.head(NAMED).iter_rows())
        more = "; …" if bad > NAMED else ""
        raise DataError(
            f"{bad} of {total} images cannot be read, more than dataset.max_bad_frac = {config.max_bad_frac} "
            f"({shown}{more}); repair or remove them, or raise dataset.max_bad_frac"
        )
    counts = dict(found.samples.group_by("label").len().sort("label").iter_rows())
    if len(counts) < 2:
        raise DataError(
            f"one class only in {config.manifest or config.root}: {', '.join(counts) or 'none is readable'}; "
            f"cues are found by comparing classes, so give two or more"
        )
    few = [f"{label!r} has {count}" for label, count in counts.items() if count < config.min_class_images]
    if few:
        raise DataError(
            f"a class needs dataset.min_class_images = {config.min_class_images} images; "
            f"{', '.join(few[:NAMED])}{', …' if len(few) > NAMED else ''}: add images, remove the class, "
            f"or lower the setting"
        )


def _share_out(found: Ingested, config: DatasetConfig, seed: int) -> Ingested:
    """Marks what is audited, shuffles, and puts the columns in the table's order."""
    rng = np.random.default_rng(seed)
    share = 1.0 if config.holdout_frac is None else config.holdout_frac
    audit = _draw_audit(found.samples, config.fit_split, share, rng)
    if not audit.any():
        raise DataError(
            f"no sample would be audited: all are in split {config.fit_split!r} and dataset.holdout_frac = "
            f"{share}; raise it, or add images of another split"
        )
    frame = found.samples.with_columns(pl.col("uri").alias("sample_id"), pl.Series("audit", audit))
    # Shuffled, so that every shard holds every class: a stage that looks at the first shard, a progress bar
    # and a crash half-way all see a fair sample.
    order = rng.permutation(len(frame))
    return Ingested(frame[order].select(TABLES["samples"].names), found.skipped)


def _draw_audit(frame: pl.DataFrame, fit_split: str, share: float, rng: np.random.Generator) -> np.ndarray:
    """Draws (n,) bool: all samples outside the fit split, and `share` of each label within it.

    Without any sample in the fit split, all splits together stand in for it.
    """
    fit = (frame["split"] == fit_split).to_numpy()
    if not fit.any():
        fit = np.ones(len(frame), bool)
    audit = ~fit
    labels = frame["label"].to_numpy()
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(fit & (labels == label)))
        count = round(share * len(rows))
        if 0 < share < 1 and len(rows) > 1:
            count = min(max(count, 1), len(rows) - 1)
        audit[rows[:count]] = True
    return audit
