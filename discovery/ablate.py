"""Presences × classifier × interventions → `effects`: what removing a cue or pasting it in does, against a control."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from discovery.attribution import ATTRIBUTION, check_mapped, overlap_without
from discovery.backends.classifier import Classifier, head_of, load_classifier
from discovery.backends.text import load_text
from discovery.budget import look_sizes, photos_for
from discovery.controls import control_mask
from discovery.dose import Dose, dose_views
from discovery.images import map_ahead, read_image
from discovery.interventions import Pair, donor_pair, paste_pair, whole_image_paste
from discovery.objects import find_objects
from discovery.queues import Queues, build_queues, find_pairs, siblings
from discovery.run import Run, Stage, frame_of
from discovery.schema import WHOLE_IMAGE_KINDS
from discovery.seen import BOX, Seen
from discovery.trials import REMOVAL, Scene, Trial, removal_pairs, run_trials, swap_pairs

PASTED_FRAC = 0.25
"""A cue that fills more of its photo leaves little room for a control: it is held against a donor, if there is one."""


def _work(run: Run, part: int | None) -> pl.DataFrame:
    if not run.config.model.can_be_asked:
        return frame_of("effects", [])
    config = run.config.ablate
    n_shards = len(run.parts("samples"))
    look, shard = divmod(part or 0, n_shards)
    samples = run.read("samples", columns=["sample_id", "label", "audit"])
    pairs = find_pairs(run.read("associations"), config)
    near = _siblings(run)
    presences = run.read("presences", columns=["cue_id", "sample_id", "score"])
    queues = build_queues(pairs, presences, samples, near, config)
    due = photos_for(queues.trials, _earlier(run, look * n_shards), look, config)
    own = run.read("samples", shard=shard, columns=["sample_id"])["sample_id"]
    due = due.filter(pl.col("sample_id").is_in(own.implode()))
    if not len(due):
        return frame_of("effects", [])
    classifier = load_classifier(run.config.model, run.config.compute, head_of(run.read("heads")))
    bench = _Bench(run, queues, near, due, classifier)
    return frame_of("effects", [row | {"look": look} for row in _tried(bench, due)])


def repeat(run: Run, before: Run, tried: pl.DataFrame, classifier: Classifier) -> Iterator[dict]:
    """Tries again with another model what was tried before: same photos, sources, fills and controls.

    Args:
        run: holds that model's predictions, and the other tables up to `presences`.
        before: the run that queued the trials.
        tried: the rows of its `effects` that are tried again.
        classifier: the model.

    Yields:
        Rows of `effects`.
    """
    near, keys = _siblings(before), ["label", "cue_id", "sample_id", "way"]
    samples = before.read("samples", columns=["sample_id", "label", "audit"])
    presences = before.read("presences", columns=["cue_id", "sample_id", "score"])
    pairs = find_pairs(before.read("associations"), before.config.ablate)
    queues = build_queues(pairs, presences, samples, near, before.config.ablate)
    known = tried.select(*keys, "look", "level_share").unique(keys)
    due = queues.trials.join(known, on=keys, how="inner", maintain_order="left")
    looks = {row[:-1]: row[-1] for row in known.select(*keys, "look").iter_rows()}
    for row in _tried(_Bench(run, queues, near, due, classifier), due):
        yield row | {"look": looks[tuple(row[name] for name in keys)]}


def _tried(bench: "_Bench", due: pl.DataFrame) -> Iterator[dict]:
    # A removal looks at the cues of its own photo, a paste-in at those of its source: each is opened once.
    due = due.with_columns(opened=pl.coalesce("source_id", "sample_id"))
    groups = [part for _, part in due.group_by("opened", maintain_order=True)]
    # Variants are drawn in a second thread while the model computes.
    prepared = map_ahead(bench.trials, groups, ahead=4)
    trials = (trial for batch in prepared for trial in batch)
    yield from run_trials(trials, bench.classifier, bench.batch_size)


def _siblings(run: Run) -> dict[str, set[str]]:
    cues = run.read("presences", columns=["cue_id", "phrase", "kind"]).unique(maintain_order=True)
    embeddings = load_text(run.config.propose.text, run.config.compute).encode(cues["phrase"].to_list())
    return siblings(cues, embeddings, run.config.ablate.sibling_similarity)


def _earlier(run: Run, n_parts: int) -> pl.DataFrame:
    """Returns the effects of the looks before this one: the first `n_parts` parts of the own table."""
    parts = [run.read("effects", shard=part) for part in range(n_parts)]
    return pl.concat(parts) if parts else frame_of("effects", [])


@dataclass(frozen=True)
class _Made:
    """What an intervention is, and what its rows know of it before prediction."""

    known: dict
    pairs: list[Pair] | None
    doses: tuple[Dose, ...] = ()


class _Bench:
    """Makes trials: decodes each photo once, draws the masks of its cues, and cuts pasted cues from their sources."""

    def __init__(
        self, run: Run, queues: Queues, near: dict[str, set[str]], due: pl.DataFrame, classifier: Classifier
    ) -> None:
        self.classifier, self.batch_size = classifier, run.config.compute.batch_size
        if run.config.ablate.object == ATTRIBUTION:
            check_mapped(classifier)
        self._run, self._queues, self._siblings, self._config = run, queues, near, run.config.ablate
        self._samples = {row["sample_id"]: row for row in run.read("samples").iter_rows(named=True)}
        needed = pl.concat([due["sample_id"], due["source_id"].drop_nulls()]).unique()
        found = run.read("predictions", columns=["sample_id", "predicted", "probs"])
        found = found.filter(pl.col("sample_id").is_in(due["sample_id"].implode()))
        self._predictions = {row["sample_id"]: row for row in found.iter_rows(named=True)}
        shown = run.read("presences", columns=["cue_id", "sample_id", "kind", "region_ids"])
        self._kinds = dict(shown.select("cue_id", "kind").unique().iter_rows())
        shown = shown.filter(pl.col("sample_id").is_in(needed.implode()))
        self._cues = {key[0]: part.rows(named=True) for key, part in shown.group_by("sample_id")}
        self._regions, self._objects = _regions(run, shown), find_objects(run, needed)
        self._view_of = lru_cache(maxsize=512)(self._view)

    def trials(self, due: pl.DataFrame) -> list[Trial]:
        """Returns the trials that are due on one photo, or with cues cut from it."""
        seen = self._seen(due["opened"][0])
        made = []
        for _, part in due.group_by("cue_id", "way", "sample_id", maintain_order=True):
            cue, rows = part.row(0, named=True), [self._row(each) for each in part.iter_rows(named=True)]
            make = self._removal if cue["way"] == REMOVAL else self._paste
            found = make(cue, seen)
            if found is not None:
                (row, index), *also = [(row | found.known, index) for row, index in rows]
                made.append(Trial(row, found.pairs, index, tuple(also), found.doses))
        return made

    def _row(self, cue: dict) -> tuple[dict, int]:
        known = self._predictions[cue["sample_id"]]
        index = self.classifier.classes.index(cue["label"])
        row = {name: cue[name] for name in ("label", "cue_id", "sample_id", "way", "source_id", "level_share")}
        return row | {"prob_before": known["probs"][index], "predicted": known["predicted"]}, index

    def _removal(self, cue: dict, seen: Seen) -> "_Made":
        cue_id, whole = cue["cue_id"], cue["kind"] in WHOLE_IMAGE_KINDS
        mask = None if whole else seen.mask(cue_id)
        known = {
            "area_frac": 1.0 if mask is None else float(mask.mean()),
            "object_overlap": (overlap := _overlap(mask, seen.around)),
            "object_source": None if overlap is None else self._objects[cue["sample_id"]].source,
            "covered_by": seen.covered_by(mask, cue_id, self._kinds),
            "sharp": seen.is_sharp(cue_id),
        }
        if mask is not None and not mask.any():
            return _Made(known, None)
        rng = self._rng(cue_id, cue["sample_id"])
        scene = Scene(cue["kind"], cue["position"], self._forbidden(cue_id, seen), seen.around)
        pairs = removal_pairs(seen.view, mask, scene, self._config, rng)
        if pairs or mask is None:
            return _Made(known | self._attributed(cue, seen, mask, pairs), pairs)
        pairs = swap_pairs(seen.view, mask, scene, lambda: self._donors(cue, 2, rng))
        behind = mask & ~seen.around if cue["kind"] == "background" and seen.around is not None else mask
        dosed = cue.get("dosed", False)  # not when a repaired model is asked again
        doses = dose_views(seen.view, behind, cue["position"], self._config, rng) if dosed else ()
        return _Made(known, pairs, doses)

    def _attributed(self, cue: dict, seen: Seen, mask: np.ndarray | None, pairs: list[Pair]) -> dict:
        """Returns how much of a thing lies on the object by the model's own map, where nothing else knows that."""
        if self._config.object != ATTRIBUTION or cue["kind"] != "object" or mask is None or seen.around is not None:
            return {}
        index, level = self.classifier.classes.index(cue["label"]), self._config.attribution_level
        overlap = overlap_without(self.classifier, index, pairs[0].removed, mask, level)
        return {"object_overlap": overlap, "object_source": ATTRIBUTION}

    def _paste(self, cue: dict, source: Seen) -> "_Made | None":
        target, cue_id = self._view_of(cue["sample_id"]), cue["cue_id"]
        known = {"sharp": source.is_sharp(cue_id)}
        if cue["kind"] in WHOLE_IMAGE_KINDS:
            pair = whole_image_paste(target, source.view, cue["kind"])
            known |= {"area_frac": 1.0, "covered_by": source.covered_by(None, cue_id, self._kinds)}
            return None if pair is None else _Made(known, [pair])
        mask, donor = source.mask(cue_id), cue["donor_id"]
        large = mask.mean() > PASTED_FRAC
        if large:  # as much as may be replaced where a donor is the control; one region leaves room for one beside it
            mask = source.clearest(cue_id, 0.0 if donor is None else self._config.max_area_frac)
        if not mask.any():
            return _Made(known | {"area_frac": 0.0}, None)
        if mask.mean() > self._config.max_area_frac:
            return None
        known |= {"area_frac": float(mask.mean()), "covered_by": source.covered_by(mask, cue_id, self._kinds)}
        # The control is the same for every target of a source: what differs between targets is the target.
        rng = self._rng(cue_id, cue["source_id"])
        beside = large and donor is not None
        control = None if beside else control_mask(mask, self._forbidden(cue_id, source), rng, around=source.around)
        if control is not None:
            return _Made(known, [paste_pair(target, source.view, mask, control)])
        if donor is not None:
            return _Made(known, [donor_pair(target, source.view, self._view_of(donor), mask)])
        # A part of a sibling in the control makes the cue look weaker, never stronger.
        control = control_mask(mask, source.mask(cue_id), rng, around=source.around)
        return None if control is None else _Made(known, [paste_pair(target, source.view, mask, control)])

    def _forbidden(self, cue_id: str, seen: Seen) -> np.ndarray:
        if self._kinds[cue_id] in WHOLE_IMAGE_KINDS:
            return np.zeros(seen.view.shape[:2], bool)
        near = [seen.mask(other) for other in self._siblings.get(cue_id, ()) if other in seen]
        return np.logical_or.reduce([seen.mask(cue_id), *near])

    def _seen(self, sample_id: str) -> Seen:
        sample = self._samples[sample_id]
        size = (sample["height_px"], sample["width_px"])
        cues = {
            cue["cue_id"]: [self._regions[region_id] for region_id in cue["region_ids"]]
            for cue in self._cues.get(sample_id, ())
        }
        place = self._objects.get(sample_id)
        return Seen(self._view(sample_id), self.classifier.field(*size), size, cues, place and place.xyxy)

    def _view(self, sample_id: str) -> np.ndarray:
        dataset = self._run.config.dataset
        path = Path(dataset.root) / self._samples[sample_id]["uri"]
        return self.classifier.view(read_image(path, max_pixels=dataset.max_pixels))

    def _donors(self, cue: dict, number: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns views of other classes without the cue and with it, pair by pair of one class."""
        cuts = [cut for cut in self._queues.cuts[cue["cue_id"]] if cut.donor and cut.label != cue["label"]]
        if len(cuts) < max(number, self._config.min_images):  # few pairs would be a test of those photos
            return []
        cuts = cuts[: self._config.sources]
        picked = [cuts[at] for at in rng.permutation(len(cuts))[:number]]
        return [(self._view_of(cut.donor), self._view_of(cut.source)) for cut in picked]

    def _rng(self, cue_id: str, sample_id: str) -> np.random.Generator:
        return np.random.default_rng([self._run.config.seed, zlib.crc32(f"{sample_id}\n{cue_id}".encode())])


def _regions(run: Run, shown: pl.DataFrame) -> dict[str, dict]:
    wanted = shown["region_ids"].explode().unique().implode()
    columns = ["region_id", "detector", "score", *BOX, "mask_rle"]
    parts = [part.filter(pl.col("region_id").is_in(wanted)) for part in run.scan("regions", columns)]
    return {row["region_id"]: row for part in parts for row in part.iter_rows(named=True)}


def _overlap(mask: np.ndarray | None, around: np.ndarray | None) -> float | None:
    if mask is None or around is None or not mask.any():
        return None
    return float((mask & around).sum() / mask.sum())


STAGE = Stage(
    name="ablate",
    table="effects",
    inputs=("samples", "heads", "predictions", "presences", "regions", "associations"),
    config=lambda config: (config.ablate, config.model, config.dataset.root, config.propose.text, config.presence),
    work=_work,
    sharded=True,
    rounds=lambda config: len(look_sizes(config.ablate)),
)
