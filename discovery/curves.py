"""Regions in order → deletion and insertion curves: the probability of a class as they are taken away, or laid back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from discovery.masked_views import MaskedViews


@dataclass(frozen=True)
class Curves:
    """Probability of a class along an order of m regions (Petsiuk et al. 2018), under one fill.

    Attributes:
        fill: the name of the fill: what a curve says depends on it, so there are always two.
        area_frac: (m + 1,) share of the view that the first k regions cover.
        deletion: (m + 1,) probability without the first k regions.
        insertion: (m + 1,) probability with the first k regions and nothing else.
    """

    fill: str
    area_frac: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_auc(self) -> float:
        """Returns the area under the deletion curve: lower is better."""
        return float(np.trapezoid(self.deletion, self.area_frac) / self.area_frac[-1])

    @property
    def insertion_auc(self) -> float:
        """Returns the area under the insertion curve: higher is better."""
        return float(np.trapezoid(self.insertion, self.area_frac) / self.area_frac[-1])


def trace(views: MaskedViews, order: Sequence[int], class_index: int) -> Curves:
    """Asks the model along an order of all regions."""
    steps = range(len(order) + 1)
    areas = [views.masks[region].mean() for region in order]
    return Curves(
        fill=views.fill,
        area_frac=np.concatenate([[0.0], np.cumsum(areas)]),
        deletion=views.without([order[:k] for k in steps])[:, class_index],
        insertion=views.without([order[k:] for k in steps])[:, class_index],
    )
