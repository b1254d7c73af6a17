"""Cues and photos → thumbnails: the cue outlined, the same photos without it, others with it pasted in, and without."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from polars import selectors

from discovery import interventions
from discovery.errors import DataError
from discovery.images import read_image, resize, thumbnail_data_url
from discovery.regions import WHOLE_IMAGE, draw_mask
from discovery.run import Run
from discovery.schema import WHOLE_IMAGE_KINDS
from discovery.seen import clearest_of
from discovery.trials import PASTE, REMOVAL, UNSEEN, WAYS

POOL = 400
"""Audited photos per class among which those without a cue are looked for: bounds the memory."""
PASTED = 3
"""Photos with a pasted cue that are shown at most."""
OUTLINE_RGB = (255, 40, 120)
CASING_RGB = (255, 255, 255)


@dataclass(frozen=True)
class Shot:
    """One thumbnail: its data URL, the photo it shows, and the probability of the class printed under it.

    Attributes:
        prob_control: with the control removed or pasted in.
        prob_before: of the photo as it was, where another one is printed; null in all but pasted photos.
    """

    url: str
    uri: str
    prob: float | None
    prob_control: float | None = None
    intervention: str | None = None
    prob_before: float | None = None


@dataclass(frozen=True)
class Gallery:
    """The photos of one cue of one class; `removed` follows the order of `present` and may be shorter.

    Attributes:
        pasted: photos of other classes with the cue pasted in.
        phrases: what the detectors were asked for where they drew the outlined regions.
        detectors: who drew them.
    """

    present: tuple[Shot, ...]
    removed: tuple[Shot, ...]
    pasted: tuple[Shot, ...]
    absent: tuple[Shot, ...]
    phrases: tuple[str, ...]
    detectors: tuple[str, ...]


def make_galleries(run: Run, cues: pl.DataFrame) -> dict[tuple[str, str], Gallery]:
    """Draws the thumbnails of some cues.

    Photos with the cue, and those that it was pasted into, are taken evenly from its largest to its smallest
    effect, those without it at random (by a hash of their id): no row is a selection of convenient examples.

    Args:
        run: the run, up to its ablations; only the rows that are needed are kept of its large tables.
        cues: rows of `cues`, as many as one page can hold.

    Returns:
        One gallery per (label, cue_id).

    Raises:
        DataError: a photo is not where it was when it was ingested.
    """
    effects = _picked_effects(run, cues)
    named = pl.concat([effects["sample_id"], effects["source_id"].drop_nulls()])
    photos = _photos(run, cues["label"].unique().to_list(), named)
    seen = _presences(run, cues["cue_id"], photos["sample_id"])
    rows = {(row["label"], row["cue_id"]): row for row in cues.iter_rows(named=True)}
    shown = {key: _present(run, row, effects, seen, photos) for key, row in rows.items()}
    pasted = {key: _pasted(row, effects, seen, photos) for key, row in rows.items()}
    without = {key: _absent(run, row, seen, photos) for key, row in rows.items()}
    placed = [name for frame in (*shown.values(), *pasted.values()) for name in frame["region_ids"].explode()]
    regions = _regions(run, placed)
    return {key: _draw(run, shown[key], pasted[key], without[key], regions) for key in rows}


def read_where(run: Run, table: str, columns: list[str], keep: pl.Expr) -> pl.DataFrame:
    """Reads the rows of a table that pass a filter, one part in memory at a time."""
    shards = range(max(1, len(run.parts(table))))
    return pl.concat([run.read(table, shard=shard, columns=columns).filter(keep) for shard in shards])


def _picked_effects(run: Run, cues: pl.DataFrame) -> pl.DataFrame:
    """Returns one row for every photo to show of a class, cue and way, the largest net effects first."""
    keys = ["label", "cue_id", "way"]
    columns = [
        *keys,
        "sample_id",
        "source_id",
        "intervention",
        "area_frac",
        "prob_before",
        "prob_after",
        "prob_control",
    ]
    seen = (pl.col("intervention") != UNSEEN) & pl.col("way").is_in(WAYS)
    keep = pl.col("cue_id").is_in(cues["cue_id"].unique().to_list()) & seen
    effects = read_where(run, "effects", [*columns, "effect", "effect_control"], keep)
    effects = effects.join(cues, on=["label", "cue_id"], how="semi").with_columns(selectors.float().fill_nan(None))
    net = (pl.col("effect") - pl.col("effect_control").fill_null(0.0)).mean()
    named = effects.with_columns(net=net.over(*keys, "sample_id")).sort("intervention")
    photos = named.unique([*keys, "sample_id"], keep="first")
    photos = photos.sort([*keys, "net", "sample_id"], descending=[False, False, False, True, False])
    number = {REMOVAL: run.config.report.photos_per_cue, PASTE: min(PASTED, run.config.report.photos_per_cue)}
    groups = photos.partition_by(keys, maintain_order=True)
    picked = [group[_spread(len(group), number[group["way"][0]])] for group in groups]
    return pl.concat([photos.clear(), *picked]).select(columns)


def _spread(n: int, k: int) -> list[int]:
    """Returns k of n positions, evenly spaced."""
    return list(range(n)) if n <= k else [int((i + 0.5) * n / k) for i in range(k)]


def _photos(run: Run, labels: list[str], named: pl.Series) -> pl.DataFrame:
    """Returns the named photos and, per label, a random pool of audited ones, in random order."""
    kept = []
    for shard in range(len(run.parts("samples"))):
        samples = run.read("samples", shard=shard, columns=["sample_id", "uri", "label", "audit"])
        probs = run.read("predictions", shard=shard, columns=["sample_id", "prob_label"])
        part = samples.join(probs, on="sample_id", how="left")
        order = [zlib.crc32(name.encode()) for name in part["sample_id"]]
        part = part.with_columns(pl.Series("order", order, pl.Int64), named=pl.col("sample_id").is_in(named.to_list()))
        part = part.filter(pl.col("named") | (pl.col("audit") & pl.col("label").is_in(labels)))
        kept = [_trim(pl.concat([*kept, part]))]
    return kept[0] if kept else run.read("samples")


def _trim(photos: pl.DataFrame) -> pl.DataFrame:
    ordered = photos.sort("order", "sample_id")
    return ordered.filter(pl.col("named") | (pl.int_range(pl.len()).over("label") < POOL))


def _presences(run: Run, cue_ids: pl.Series, sample_ids: pl.Series) -> pl.DataFrame:
    keep = pl.col("cue_id").is_in(cue_ids.to_list()) & pl.col("sample_id").is_in(sample_ids.to_list())
    return read_where(run, "presences", ["cue_id", "sample_id", "score", "region_ids"], keep)


def _present(run: Run, row: dict, effects: pl.DataFrame, seen: pl.DataFrame, photos: pl.DataFrame) -> pl.DataFrame:
    """Returns the photos to show with the cue: those it was removed from, else those where it is plainest."""
    own = seen.filter(pl.col("cue_id") == row["cue_id"]).drop("cue_id")
    removed = effects.filter(label=row["label"], cue_id=row["cue_id"], way=REMOVAL)
    if len(removed):
        known = removed.join(photos.select("sample_id", "uri"), on="sample_id", how="inner", maintain_order="left")
        found = known.join(own, on="sample_id", how="left", maintain_order="left")
        return found.with_columns(kind=pl.lit(row["kind"]))
    candidates = photos.filter((pl.col("label") == row["label"]) & pl.col("audit"))
    plain = candidates.join(own, on="sample_id", how="inner").sort("score", "sample_id", descending=[True, False])
    return plain.head(run.config.report.photos_per_cue).with_columns(
        intervention=pl.lit(None, pl.String), prob_before="prob_label", prob_after=None, prob_control=None
    )


def _pasted(row: dict, effects: pl.DataFrame, seen: pl.DataFrame, photos: pl.DataFrame) -> pl.DataFrame:
    """Returns the photos to show with the cue pasted in; `region_ids` are those of the photo that it is cut from."""
    pasted = effects.filter(label=row["label"], cue_id=row["cue_id"], way=PASTE)
    source = seen.filter(cue_id=row["cue_id"]).select(source_id="sample_id", region_ids="region_ids")
    uris = photos.select("sample_id", "uri")
    found = pasted.join(uris, on="sample_id", how="inner", maintain_order="left")
    sources = uris.rename({"sample_id": "source_id", "uri": "source_uri"})
    found = found.join(sources, on="source_id", how="inner", maintain_order="left")
    found = found.join(source, on="source_id", how="left", maintain_order="left")
    return found.with_columns(kind=pl.lit(row["kind"]))


def _absent(run: Run, row: dict, seen: pl.DataFrame, photos: pl.DataFrame) -> pl.DataFrame:
    own = seen.filter(pl.col("cue_id") == row["cue_id"])
    candidates = photos.filter((pl.col("label") == row["label"]) & pl.col("audit"))
    without = candidates.join(own, on="sample_id", how="anti", maintain_order="left")
    return without.head(run.config.report.photos_per_cue)


def _regions(run: Run, region_ids: Iterable[str | None]) -> dict[str, dict]:
    wanted = sorted({name for name in region_ids if name is not None})
    columns = ["region_id", "attribute_id", "detector", "score", "x0", "y0", "x1", "y1", "mask_rle"]
    regions = read_where(run, "regions", columns, pl.col("region_id").is_in(wanted))
    asked = run.read("attributes", columns=["attribute_id", "phrase"]).unique("attribute_id")
    named = regions.join(asked, on="attribute_id", how="left")
    return {row["region_id"]: row for row in named.iter_rows(named=True)}


def _draw(
    run: Run, shown: pl.DataFrame, pasted: pl.DataFrame, without: pl.DataFrame, regions: dict[str, dict]
) -> Gallery:
    present, removed, drawn = [], [], []
    for row in shown.iter_rows(named=True):
        found = _found(row, regions)
        image = _read(run, row["uri"])
        mask = _mask(found, image.shape[:2])
        present.append(Shot(_outlined(run, image, mask), row["uri"], row["prob_before"]))
        drawn += found
        if row["intervention"] is not None:
            removed.append(_removed(run, image, mask, row))
    shots = [_paste(run, row, _found(row, regions)) for row in pasted.iter_rows(named=True)]
    absent = [
        Shot(_thumbnail(run, _read(run, row["uri"])), row["uri"], row["prob_label"])
        for row in without.iter_rows(named=True)
    ]
    phrases = sorted({region["phrase"] for region in drawn} - {None})
    detectors = sorted({region["detector"] for region in drawn} - {None})
    return Gallery(tuple(present), tuple(removed), tuple(shots), tuple(absent), tuple(phrases), tuple(detectors))


def _found(row: dict, regions: dict[str, dict]) -> list[dict]:
    return [regions[name] for name in row["region_ids"] or [] if name in regions]


def _read(run: Run, uri: str) -> np.ndarray:
    path = Path(run.config.dataset.root) / uri
    if not path.is_file():
        raise DataError(f"photo {path} of the report is gone since it was ingested; put it back and run again")
    return read_image(path, max_pixels=run.config.dataset.max_pixels)


def _mask(regions: list[dict], size_px: tuple[int, int]) -> np.ndarray:
    """Unites regions into one (H, W) bool mask; no region means the whole image."""
    mask = np.zeros(size_px, bool)
    for region in regions:
        corners = [region[name] for name in ("x0", "y0", "x1", "y1")]
        xyxy = WHOLE_IMAGE if None in corners else np.array(corners, np.float32)
        mask |= draw_mask(xyxy, region["mask_rle"], size_px, size_px)
    return mask if regions else ~mask


def _outlined(run: Run, image: np.ndarray, mask: np.ndarray) -> str:
    # Drawn on the thumbnail, not on the photo: a line keeps its width whatever the photo's size.
    small = np.array(_scaled(image, run.config.report.thumbnail_px))
    height, width = small.shape[:2]
    area = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0
    contours, _ = cv2.findContours(area.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(small, contours, -1, CASING_RGB, 4)
    cv2.drawContours(small, contours, -1, OUTLINE_RGB, 2)
    return _encoded(run, small)


def _removed(run: Run, image: np.ndarray, mask: np.ndarray, row: dict) -> Shot:
    without = interventions.show_removed(image, mask, row["kind"], row["intervention"])
    return Shot(_thumbnail(run, without), row["uri"], row["prob_after"], row["prob_control"], row["intervention"])


def _paste(run: Run, row: dict, regions: list[dict]) -> Shot:
    """Draws the cue of one photo into another, on the whole photos: the model sees its own crop of them."""
    target, source = _read(run, row["uri"]), _read(run, row["source_uri"])
    if row["kind"] in WHOLE_IMAGE_KINDS:
        pair = interventions.whole_image_paste(target, source, row["kind"])
        mask = np.ones(target.shape[:2], bool)
    else:
        cut = _cut(regions, source.shape[:2], row["area_frac"])
        pair = interventions.paste_pair(target, source, cut, cut)
        mask = cv2.resize(cut.view(np.uint8), target.shape[1::-1], interpolation=cv2.INTER_NEAREST).view(bool)
    url = _outlined(run, target if pair is None else pair.removed, mask)
    return Shot(url, row["uri"], row["prob_after"], row["prob_control"], row["intervention"], row["prob_before"])


def _cut(regions: list[dict], size_px: tuple[int, int], area_frac: float | None) -> np.ndarray:
    """Returns what was cut out: all of the cue or its clearest regions, whichever is nearest to the share that was."""
    if not regions:
        return _mask(regions, size_px)
    share = area_frac or 0.0
    some = [clearest_of(regions, lambda region: _mask([region], size_px), most) for most in (0.0, share)]
    return min((_mask(regions, size_px), *some), key=lambda mask: abs(mask.mean() - share))


def _thumbnail(run: Run, image: np.ndarray) -> str:
    return _encoded(run, _scaled(image, run.config.report.thumbnail_px))


def _scaled(image: np.ndarray, side_px: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    return resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


def _encoded(run: Run, image: np.ndarray) -> str:
    return thumbnail_data_url(image, run.config.report.thumbnail_px)
