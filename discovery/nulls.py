"""Presences and regions → the same, permuted among the photos of each class: tied to it still, but not what is seen."""

from dataclasses import dataclass

import numpy as np
import polars as pl

ACROSS, DOWN = ("x0", "x1"), ("y0", "y1")


@dataclass(frozen=True)
class Permuted:
    """The tables `presences` and `regions`, each photo having those of another one of its class."""

    presences: pl.DataFrame
    regions: pl.DataFrame


def permute_presences(
    presences: pl.DataFrame, regions: pl.DataFrame, samples: pl.DataFrame, rng: np.random.Generator
) -> Permuted:
    """Permutes what photos show within class and `audit`, so that every count of a tie stays as it is.

    Boxes are stretched to their new photo.

    Args:
        presences: the table.
        regions: the table.
        samples: the table.
        rng: of the permutation.
    """
    known = samples.select("sample_id", "label", "audit", "width_px", "height_px")
    moves = [
        _permuted(part, rng) for _, part in known.sort("sample_id").group_by("label", "audit", maintain_order=True)
    ]
    to = pl.concat(moves)
    placed = regions.join(to, on="sample_id", how="left", maintain_order="left").with_columns(
        *((pl.col(name) * pl.col("across")).cast(pl.Float32) for name in ACROSS),
        *((pl.col(name) * pl.col("down")).cast(pl.Float32) for name in DOWN),
        sample_id="new_id",
    )
    shown = presences.join(to, on="sample_id", how="left", maintain_order="left").with_columns(sample_id="new_id")
    return Permuted(shown.select(presences.columns), placed.select(regions.columns))


def _permuted(photos: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Returns for each photo the one that its presences go to, and how much wider and higher that one is."""
    new = photos[rng.permutation(len(photos))]
    return photos.select("sample_id").with_columns(
        new_id=new["sample_id"],
        across=new["width_px"] / photos["width_px"],
        down=new["height_px"] / photos["height_px"],
    )
