"""One photo and a run's model → what the answer rests on: the smallest set that flips it, curves, and cues it meets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier import Classifier, head_of, load_classifier
from discovery.config import ExplainConfig
from discovery.curves import Curves, trace
from discovery.errors import ConfigError
from discovery.images import read_image
from discovery.masked_views import MaskedViews
from discovery.partitions import around_cues, grid_cells, superpixels
from discovery.region_search import Flip, Worth, find_flip, order_regions
from discovery.regions import draw_mask
from discovery.run import Run
from discovery.seen import BOX, box_of


@dataclass(frozen=True)
class Met:
    """A cue of the run that lies in the photo.

    Attributes:
        phrase: the cue.
        verdict: on it, for the class that is explained; None where the cue was not tried for it.
        covered: share of the cue that the flipping set removes.
        share: share of the flipping set that is the cue.
    """

    phrase: str
    verdict: str | None
    covered: float
    share: float


@dataclass(frozen=True)
class Explanation:
    """What an answer rests on.

    Attributes:
        path: the photo.
        label: the class that is explained.
        classes: names, in output order.
        view: (h, w, 3) uint8, what the model sees.
        masks: (m, h, w) bool regions.
        probs: (c,) of the whole view.
        order: the regions, those first that the answer rests on most.
        flip: the smallest set found whose removal flips the answer; None where none does.
        without: the view without that set, under the first fill.
        curves: one per fill.
        met: cues of the run in this photo, those first that the set removes most of; None for a photo of no run.
        n_forwards: (of the search, of the curves beyond that).
    """

    path: Path
    label: str
    classes: tuple[str, ...]
    view: np.ndarray
    masks: np.ndarray
    probs: np.ndarray
    order: list[int]
    flip: Flip | None
    without: np.ndarray | None
    curves: tuple[Curves, ...]
    met: list[Met] | None
    n_forwards: tuple[int, int]

    @property
    def class_index(self) -> int:
        return self.classes.index(self.label)

    @property
    def removed(self) -> np.ndarray:
        """Returns the (h, w) bool mask of the flipping set."""
        chosen = [] if self.flip is None else list(self.flip.regions)
        return self.masks[chosen].any(axis=0)


def explain_photo(run: Run, path: Path, label: str | None, config: ExplainConfig) -> Explanation:
    """Explains the answer of a run's model to one photo.

    Args:
        run: a run with a model: its stage fit is done.
        path: the photo; where it belongs to the run, the cues that the set meets are named.
        label: the class to explain; by default the model's answer.
        config: how the photo is taken apart.

    Raises:
        ConfigError: the model does not know the class, or regions are to be cues and the photo is not of the run.
        DataError: the photo cannot be read, or the run is not that far.
    """
    model = load_classifier(run.config.model, run.config.compute, head_of(run.read("heads")))
    image = read_image(path, max_pixels=run.config.dataset.max_pixels)
    view = model.view(image)
    cues = _cues_in(run, path, image.shape[:2], view.shape[:2], model)
    masks = _regions(view, config, None if cues is None else [mask for _, mask in cues])
    size = run.config.compute.batch_size
    views = [MaskedViews(view, masks, model, fill=fill, batch_size=size) for fill in config.fills]
    probs = views[0].without([()])[0]
    c = _class_index(label, model.classes, probs)
    order = order_regions(Worth(views, c, config))
    # A class that is not the answer cannot lose: there is nothing to flip.
    flip = find_flip(views, c, order) if probs.argmax() == c else None
    n_search = sum(own.n_forwards for own in views)
    curves = tuple(trace(own, order, c) for own in views)
    return Explanation(
        path=path,
        label=model.classes[c],
        classes=tuple(model.classes),
        view=view,
        masks=masks,
        probs=probs,
        order=order,
        flip=flip,
        without=None if flip is None else views[0].draw(flip.regions),
        curves=curves,
        met=None if cues is None else _met(run, model.classes[c], cues, flip, masks),
        n_forwards=(n_search, sum(own.n_forwards for own in views) - n_search),
    )


def _class_index(label: str | None, classes: tuple[str, ...], probs: np.ndarray) -> int:
    if label is None:
        return int(probs.argmax())
    if label not in classes:
        raise ConfigError(f"the model has no class {label!r}; choose from {', '.join(classes)}")
    return list(classes).index(label)


def _regions(view: np.ndarray, config: ExplainConfig, cues: list[np.ndarray] | None) -> np.ndarray:
    makers: dict[str, Callable[[], np.ndarray]] = {
        "grid": lambda: grid_cells(view.shape[:2], config.side),
        "superpixels": lambda: superpixels(view, config.side**2),
        "cues": lambda: around_cues(cues or [], view.shape[:2], config.side),
    }
    if config.regions == "cues" and cues is None:
        raise ConfigError("regions 'cues' need a photo of the run, with its presences; choose grid or superpixels")
    return makers[config.regions]()


def _cues_in(
    run: Run, path: Path, size_px: tuple[int, int], shape: tuple[int, int], model: Classifier
) -> list[tuple[dict, np.ndarray]] | None:
    """Returns the cues that a photo of the run shows and their (h, w) masks in the view; None for any other photo."""
    root, own = Path(run.config.dataset.root).resolve(), path.resolve()
    if not own.is_relative_to(root) or not run.parts("presences"):
        return None
    sample = run.read("samples", columns=["sample_id", "uri"]).filter(uri=own.relative_to(root).as_posix())
    if sample.is_empty():
        return None
    sample_id = sample["sample_id"][0]
    shown = run.read("presences", columns=["cue_id", "sample_id", "phrase", "region_ids"]).filter(sample_id=sample_id)
    wanted = shown["region_ids"].explode().unique().implode()
    parts = [
        part.filter(pl.col("region_id").is_in(wanted)) for part in run.scan("regions", ["region_id", *BOX, "mask_rle"])
    ]
    regions = {row["region_id"]: row for part in parts for row in part.iter_rows(named=True)}
    field, found = model.field(*size_px), []
    for row in shown.iter_rows(named=True):
        placed = [regions[name] for name in row["region_ids"] if regions[name]["x0"] is not None]
        drawn = [draw_mask(box_of(r), r["mask_rle"], size_px, shape, field=field) for r in placed]
        if drawn and np.logical_or.reduce(drawn).any():
            found.append((row, np.logical_or.reduce(drawn)))
    return found


def _met(run: Run, label: str, cues: list[tuple[dict, np.ndarray]], flip: Flip | None, masks: np.ndarray) -> list[Met]:
    if flip is None:
        return []
    removed = masks[list(flip.regions)].any(axis=0)
    judged = {}
    if run.parts("cues"):
        judged = dict(run.read("cues").filter(label=label).select("cue_id", "verdict").rows())
    met = []
    for row, mask in cues:
        both = float((mask & removed).sum())
        if both:
            verdict = judged.get(row["cue_id"])
            met.append(Met(row["phrase"], verdict, both / float(mask.sum()), both / float(removed.sum())))
    return sorted(met, key=lambda cue: (cue.verdict != "spurious", -min(cue.covered, cue.share), cue.phrase))
