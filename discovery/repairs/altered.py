"""Photos that may be fitted on → views whose flipping set or cue is replaced, or with a cue pasted in; labels stay."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from discovery.ablate import PASTED_FRAC
from discovery.backends.roles import Featured
from discovery.errors import BackendError, DataError
from discovery.fills import FILLS
from discovery.images import read_image
from discovery.interventions import paste_pair, whole_image_pair, whole_image_paste
from discovery.masked_views import MaskedViews
from discovery.partitions import grid_cells
from discovery.region_search import Worth, find_flip, order_regions
from discovery.repairs.task import Task
from discovery.schema import WHOLE_IMAGE_KINDS
from discovery.seen import BOX, Seen

BATCH = 32
HIDDEN = 0.2
"""Share of the object's box from which a change hides it, so that the label may be wrong."""
OBJECT = ["object_x0", "object_y0", "object_x1", "object_y1"]


@dataclass(frozen=True)
class Altered:
    """A changed view.

    Attributes:
        view: (h, w, 3) uint8.
        row: the photo of the task that it is made of, whose label it keeps.
        source: the photo that what was pasted comes from; `row` itself where nothing was.
        cue: number of the cue that was removed or pasted in; -1 where it was another part.
    """

    view: np.ndarray
    row: int
    source: int
    cue: int = -1


@dataclass(frozen=True)
class Copies:
    """What is kept of m changed views: (m,) `row`, `source` and `cue` of each, and (m, d) features."""

    row: np.ndarray
    source: np.ndarray
    cue: np.ndarray
    features: np.ndarray

    @classmethod
    def of(cls, changed: Iterator[Altered], task: Task, made: "Alterations") -> "Copies":
        """Computes the features of changed views, batch by batch.

        Raises:
            BackendError: the model gives no features.
            DataError: there is no view.
        """
        method = task.config.method
        if not isinstance(task.model, Featured):
            raise BackendError(f"{method} needs a model that gives its features (model.kind = 'probe' or the like)")
        numbers, features = [], []
        while batch := list(islice(changed, BATCH)):
            numbers += [(copy.row, copy.source, copy.cue) for copy in batch]
            features.append(task.model.features([copy.view for copy in batch]))
        if not numbers:
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(made.counts.items())) or "no photo shows a cue"
            names = ", ".join(task.cues["phrase"])
            raise DataError(
                f"{method} could change no photo for {names} ({reasons}); choose other cues or --method groupdro"
            )
        return cls(*np.array(numbers, np.int64).T, np.concatenate(features))


class Alterations:
    """Makes changed views of a task's photos, and counts what it made, what it could not make, and why.

    Args:
        task: the photos and cues.

    Attributes:
        counts: views made and photos skipped, by reason, and `forwards` of the searches.
    """

    def __init__(self, task: Task) -> None:
        self._task, self.counts = task, Counter()
        rows = task.run.read("samples").filter(pl.col("sample_id").is_in(task.sample_id.tolist()))
        self._samples = {row["sample_id"]: row for row in rows.iter_rows(named=True)}
        shown = task.run.read("presences", columns=["cue_id", "sample_id", "region_ids"])
        shown = shown.filter(pl.col("cue_id").is_in(task.cue_ids) & pl.col("sample_id").is_in(list(self._samples)))
        wanted = shown["region_ids"].explode().unique().implode()
        columns = ["region_id", "detector", "score", *BOX, "mask_rle"]
        parts = [part.filter(pl.col("region_id").is_in(wanted)) for part in task.run.scan("regions", columns)]
        regions = {row["region_id"]: row for part in parts for row in part.iter_rows(named=True)}
        self._cues: dict[str, dict[str, list[dict]]] = {}
        for cue_id, sample_id, names in shown.iter_rows():
            found = [regions[name] for name in names or () if name in regions]
            self._cues.setdefault(sample_id, {})[cue_id] = found
        self.seen = lru_cache(maxsize=256)(self._seen)

    def flipped(self, row: int) -> Altered | None:
        """Replaces the smallest set that flips a photo's answer by natural background of the same photo (SS-CA).

        Background lies outside the object's box where that is known, else where the answer rests least. A photo that is
        wrong as it is, or that nothing flips, is skipped.
        """
        seen, config, c = self.seen(row), self._task.run.config.explain, int(self._task.label[row])
        cells = grid_cells(seen.view.shape[:2], config.side)
        views = [MaskedViews(seen.view, cells, self._task.model, fill=fill) for fill in config.fills]
        if views[0].without([()])[0].argmax() != c:
            return self._skipped("flip: wrong as it is", views)
        order = order_regions(Worth(views, c, config))
        flip = find_flip(views, c, order)
        if flip is None:
            return self._skipped("flip: nothing flips it", views)
        spare = [region for region in reversed(order) if region not in flip.regions]
        if seen.around is not None:
            spare = [region for region in spare if not (cells[region] & seen.around).any()]
        if not spare:
            return self._skipped("flip: no background is left", views)
        self.counts["forwards"] += sum(own.n_forwards for own in views)
        self.counts["flip: made"] += 1
        return Altered(laid_over(seen.view, cells, flip.regions, spare), row, row)

    def _skipped(self, reason: str, views: list[MaskedViews]) -> None:
        self.counts[reason] += 1
        self.counts["forwards"] += sum(own.n_forwards for own in views)

    def without_cue(self, row: int, cue_id: str, kind: str, turn: int) -> Altered | None:
        """Removes a cue from a photo that shows it; the fills take turns."""
        seen = self.seen(row)
        if kind in WHOLE_IMAGE_KINDS:
            pair = whole_image_pair(seen.view, kind)
            return self._made(
                "removal", None if pair is None else Altered(pair.removed, row, row, self._number(cue_id))
            )
        if not self._has_place(row, cue_id):
            return self._made("removal", None)
        fill = list(FILLS)[turn % len(FILLS)]
        return self._made("removal", Altered(FILLS[fill](seen.view, seen.mask(cue_id)), row, row, self._number(cue_id)))

    def covered(self, row: int, donor: int, cue_id: str) -> Altered | None:
        """Covers a cue by the same place of a photo that lacks it: a fill is what no camera ever saw."""
        if not self._has_place(row, cue_id):
            return self._made("removal", None)
        other, mask = self.seen(donor), self.seen(row).mask(cue_id)
        view = self.seen(row).view
        if other.view.shape != view.shape or self._hides(donor, mask) or self._hides(row, mask):
            return self._spoilt("removal")
        pair = paste_pair(view, other.view, mask, mask, move=False)
        return self._made("removal", Altered(pair.removed, row, donor, self._number(cue_id)))

    def with_cue(self, row: int, source: int, cue_id: str, kind: str, *, gently: bool = False) -> Altered | None:
        """Pastes the cue of one photo into another; `gently` skips one that would hide the object."""
        target, seen = self.seen(row).view, self.seen(source)
        if kind in WHOLE_IMAGE_KINDS:
            pair = whole_image_paste(target, seen.view, kind)
        else:
            mask = seen.clearest(cue_id) if self._has_place(source, cue_id) else np.zeros((1, 1), bool)
            if gently and mask.any() and (mask.shape != target.shape[:2] or self._hides(row, mask)):
                return self._spoilt("paste")
            pair = paste_pair(target, seen.view, mask, mask, move=False) if mask.any() else None
        return self._made("paste", None if pair is None else Altered(pair.removed, row, source, self._number(cue_id)))

    def _hides(self, row: int, mask: np.ndarray) -> bool:
        around = self.seen(row).around
        if around is None or not around.any():
            return bool(mask.mean() > PASTED_FRAC)
        return bool((around & mask).sum() > HIDDEN * around.sum())

    def _spoilt(self, what: str) -> None:
        self.counts[f"{what}: would hide the object"] += 1

    def _number(self, cue_id: str) -> int:
        return self._task.cue_ids.index(cue_id)

    def _made(self, what: str, altered: Altered | None) -> Altered | None:
        self.counts[f"{what}: made" if altered else f"{what}: no region in view"] += 1
        return altered

    def _has_place(self, row: int, cue_id: str) -> bool:
        known = self._cues.get(str(self._task.sample_id[row]), {})
        return bool(known.get(cue_id)) and bool(self.seen(row).mask(cue_id).any())

    def _seen(self, row: int) -> Seen:
        sample, dataset = self._samples[str(self._task.sample_id[row])], self._task.run.config.dataset
        image = read_image(Path(dataset.root) / sample["uri"], max_pixels=dataset.max_pixels)
        size, model = image.shape[:2], self._task.model
        box = None if sample["object_x0"] is None else np.array([sample[name] for name in OBJECT], np.float32)
        return Seen(model.view(image), model.field(*size), size, self._cues.get(sample["sample_id"], {}), box)


def laid_over(view: np.ndarray, cells: np.ndarray, gone: tuple[int, ...], spare: list[int]) -> np.ndarray:
    """Lays spare cells of a view over other cells of it, in turn; a smaller cell is continued by its mirror image."""
    changed = view.copy()
    for number, region in enumerate(gone):
        rows, columns = (np.flatnonzero(cells[region].any(axis=axis)) for axis in (1, 0))
        donor = cells[spare[number % len(spare)]]
        lines, posts = (np.flatnonzero(donor.any(axis=axis)) for axis in (1, 0))
        patch = view[lines[_mirrored(len(lines), len(rows))]][:, posts[_mirrored(len(posts), len(columns))]]
        changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = patch
    return changed


def _mirrored(size: int, wanted: int) -> np.ndarray:
    there_and_back = [*range(size), *range(size - 1, -1, -1)]
    return np.resize(there_and_back, wanted)


def alter(task: Task, made: Alterations, per_cue: int) -> Iterator[Altered]:
    """Yields the changed views of a task.

    Per class up to `per_cue` photos get their flipping set replaced. Per class and cue, up to as many photos of the
    class that show the cue lose it, and up to as many of the other classes that do not show it get it from one of them.

    Args:
        task: the photos and cues.
        made: makes and counts them.
        per_cue: photos each.
    """
    rng, done = task.rng("augment"), 0
    total = len(task.cues) + len(task.classes)
    for c in range(len(task.classes)):
        task.progress(done, total)
        own = np.flatnonzero(task.label == c)
        yield from filter(None, (made.flipped(int(row)) for row in rng.permutation(own)[:per_cue]))
        done += 1
    for cue in task.cues.iter_rows(named=True):
        task.progress(done, total)
        shows, own = task.shown[:, task.cue_ids.index(cue["cue_id"])], task.label == task.classes.index(cue["label"])
        having, lacking = (rng.permutation(np.flatnonzero(rows))[:per_cue] for rows in (own & shows, ~own & ~shows))
        for turn, row in enumerate(having):
            yield from filter(None, [made.without_cue(int(row), cue["cue_id"], cue["kind"], turn)])
        for turn, row in enumerate(lacking if len(having) else []):
            source = int(having[turn % len(having)])
            yield from filter(None, [made.with_cue(int(row), source, cue["cue_id"], cue["kind"])])
        done += 1
