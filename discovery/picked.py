"""A dataset → the photos of a few classes that a planted copy is made of, and those that a probe is fitted on."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl

from discovery.config import DatasetConfig, RunConfig
from discovery.errors import ConfigError, DataError
from discovery.images import decode_image, map_ahead, read_image
from discovery.listing import list_samples

FIT, AUDIT = "fit", "audit"
FIT_SHARE = 0.4
"""Of a class's photos: in these the tie of cue and class is measured, and sensors learn from them."""
LEAST_FIT = 10
MOST_CLASSES = 6
SIDE_PX = 1024
"""Longer side of a copied photo at most."""


@dataclass(frozen=True)
class Picked:
    """Photos of a dataset that a copy is made of.

    Attributes:
        photos: uri, label, split (`fit` or `audit`).
        to_fit: uri, label of all photos that a probe may be fitted on: the `fit` ones and more, no `audit` one.
        classes: all labels of the dataset, sorted.
        left_out: labels without a photo in the copy.
    """

    photos: pl.DataFrame
    to_fit: pl.DataFrame
    classes: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The labels with photos in the copy, sorted."""
        return self.photos["label"].unique().sort().to_list()


def pick_photos(config: RunConfig, per_class: int, seed: int) -> Picked:
    """Draws photos of at most `MOST_CLASSES` classes.

    As in a run, the photos of other splits and `dataset.holdout_frac` of the fit split may be audited, but never more
    than 60 % of it.

    Args:
        config: of the run.
        per_class: photos per class at most.
        seed: of the draw.

    Raises:
        ConfigError: `per_class` is too small for anything to be found.
        DataError: the dataset cannot be read, or fewer than two classes have enough photos.
    """
    least = {FIT: LEAST_FIT, AUDIT: 2 * max(config.ablate.min_images, config.rank.min_images)}
    wanted = _sizes(per_class)
    if not _reach(wanted, least):
        more = next(n for n in count(per_class) if _reach(_sizes(n), least))
        raise ConfigError(f"{per_class} photos per class are too few to find a cue in: --photos {more} or more")
    rng = np.random.default_rng([seed, 1])
    listed = list_samples(config.dataset)
    pools = {key[0]: _pools(rows, config.dataset, rng) for key, rows in listed.group_by("label", maintain_order=True)}
    large = [label for label, pool in sorted(pools.items()) if _reach({at: len(pool[at]) for at in pool}, least)]
    if len(large) < 2:
        have = "; ".join(f"{label!r} has {len(p[FIT])} and {len(p[AUDIT])}" for label, p in sorted(pools.items())[:3])
        raise DataError(
            f"two classes at least need {least[FIT]} photos of split {config.dataset.fit_split!r} to tie a cue to and "
            f"{least[AUDIT]} others to audit; {have}: add photos, or lower ablate.min_images and rank.min_images"
        )
    chosen = sorted(rng.permutation(large)[:MOST_CLASSES].tolist())
    rows = []
    for label in chosen:
        for split, n in wanted.items():
            uris = _readable(pools[label][split], n, config.dataset)
            if len(uris) < least[split]:
                raise DataError(f"only {len(uris)} photos of {label!r} can be read: repair them or remove the class")
            rows += [{"uri": uri, "label": label, "split": split} for uri in uris]
    to_fit = [{"uri": uri, "label": label} for label in chosen for uri in pools[label][FIT]]
    left_out = tuple(sorted(set(pools) - set(chosen)))
    return Picked(pl.DataFrame(rows), pl.DataFrame(to_fit), tuple(sorted(pools)), left_out)


def _sizes(per_class: int) -> dict[str, int]:
    n_fit = round(FIT_SHARE * per_class)
    return {FIT: n_fit, AUDIT: per_class - n_fit}


def _reach(sizes: dict[str, int], least: dict[str, int]) -> bool:
    return all(sizes[split] >= least[split] for split in least)


def _pools(rows: pl.DataFrame, config: DatasetConfig, rng: np.random.Generator) -> dict[str, list[str]]:
    """Returns the photos of one class that ties are planted in and those that may be audited, in random order."""
    order = rows[rng.permutation(len(rows))]
    fit = (order["split"] == config.fit_split).to_numpy()
    fit = fit if fit.any() else np.ones(len(order), bool)
    share = min(1.0 if config.holdout_frac is None else config.holdout_frac, 1 - FIT_SHARE)
    place = np.cumsum(fit) - 1
    kept = fit & (place >= round(share * fit.sum()))
    held_out = order.filter(pl.Series(~kept))["uri"].to_list()
    return {FIT: order.filter(pl.Series(kept))["uri"].to_list(), AUDIT: rng.permutation(held_out).tolist()}


def _readable(uris: list[str], n: int, config: DatasetConfig) -> list[str]:
    """Returns the first n photos that can be decoded."""
    found = []

    def check(uri: str) -> bool:
        try:
            decode_image(Path(config.root) / uri, max_pixels=config.max_pixels, max_side_px=SIDE_PX)
        except DataError:
            return False
        return True

    for uri, good in zip(uris, map_ahead(check, uris, ahead=4), strict=False):
        if len(found) == n:
            break
        if good:
            found.append(uri)
    return found


def read_photo(dataset: DatasetConfig, uri: str) -> np.ndarray:
    """Returns a photo of the dataset at the size that its copy has, (H, W, 3) uint8."""
    return read_image(Path(dataset.root) / uri, max_pixels=dataset.max_pixels, max_side_px=SIDE_PX)
