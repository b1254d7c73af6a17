"""A user's own training: `retrain.callable` gets photos, groups, weights and masks, and returns the repaired model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier import import_callable
from discovery.backends.roles import Head
from discovery.cue_groups import balanced_weights
from discovery.errors import BackendError, ConfigError
from discovery.regions import draw_mask
from discovery.repairs.task import Repaired, Task
from discovery.seen import BOX, box_of


@dataclass(frozen=True)
class Training:
    """What a user's function is given.

    Attributes:
        folder: where it may write.
        paths: of the n photos that may be trained on; none of them is judged by.
        label: (n,) str.
        classes: in the order of the model's output.
        group: (n,) int, and `group_names`, `class|cues shown`.
        group_names: per group.
        weight: (n,) under which the groups of a class weigh the same.
        cues: phrases of the k chosen cues.
        shown: (n, k) bool.
        task: the rest: features, the model's last layer, settings.
    """

    folder: Path
    paths: tuple[Path, ...]
    label: np.ndarray
    classes: tuple[str, ...]
    group: np.ndarray
    group_names: tuple[str, ...]
    weight: np.ndarray
    cues: tuple[str, ...]
    shown: np.ndarray
    task: Task

    def mask(self, photo: int, cue: int) -> np.ndarray:
        """Returns (H, W) bool, where a photo shows a cue; all of it for a cue without a place, nothing when absent."""
        sample_id, cue_id = str(self.task.sample_id[photo]), self.task.cue_ids[cue]
        run = self.task.run
        row = run.read("samples").filter(pl.col("sample_id") == sample_id).row(0, named=True)
        size = (row["height_px"], row["width_px"])
        found = run.read("presences", columns=["cue_id", "sample_id", "region_ids"]).filter(
            (pl.col("sample_id") == sample_id) & (pl.col("cue_id") == cue_id)
        )
        wanted = found["region_ids"].explode()
        parts = [np.zeros(size, bool)]
        for part in run.scan("regions", ["region_id", *BOX, "mask_rle"]):
            for region in part.filter(pl.col("region_id").is_in(wanted.implode())).iter_rows(named=True):
                parts.append(draw_mask(box_of(region), region["mask_rle"], size, size))
        return np.logical_or.reduce(parts)


def repair(task: Task) -> Repaired:
    """Calls the user's function; see `repairs.task.Repair`."""
    name = task.config.callable
    if name is None:
        raise ConfigError("--method python needs retrain.callable = 'package.module:function'")
    made = import_callable(name, "retrain.callable")(_training(task))
    if isinstance(made, Head):
        return Repaired(made, facts={"callable": name})
    if isinstance(made, str | Path):
        if not Path(made).is_file():
            raise BackendError(f"retrain.callable {name!r} returned {str(made)!r}, where there is no file")
        return Repaired(model={"kind": "torch", "path": str(Path(made).absolute())}, facts={"callable": name})
    raise BackendError(
        f"retrain.callable {name!r} must return a model file (.pt, .pt2) or a Head, got {type(made).__name__}"
    )


def _training(task: Task) -> Training:
    root = Path(task.run.config.dataset.root)
    uri = dict(task.run.read("samples", columns=["sample_id", "uri"]).iter_rows())
    phrases = dict(task.cues.select("cue_id", "phrase").iter_rows())
    return Training(
        folder=task.folder,
        paths=tuple(root / uri[sample_id] for sample_id in task.sample_id),
        label=np.array([task.classes[y] for y in task.label]),
        classes=task.classes,
        group=task.groups.of,
        group_names=task.groups.names,
        weight=balanced_weights(task.groups),
        cues=tuple(phrases[cue_id] for cue_id in task.cue_ids),
        shown=task.shown,
        task=task,
    )
