"""Presences × classifier × interventions → `effects`: what removing a cue does, against a matched control."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from discovery.backends.classifier import Classifier, head_of, load_classifier
from discovery.backends.text import load_text
from discovery.config import AblateConfig, RunConfig
from discovery.images import map_ahead, read_image
from discovery.interventions import FILLS, Pair, control_mask, swap_pair, whole_image_pair
from discovery.regions import draw_mask
from discovery.run import Run, Stage, frame_of
from discovery.schema import WHOLE_IMAGE_KINDS
from discovery.stats import logit

BOX = ["x0", "y0", "x1", "y1"]
RIM = np.ones((7, 7), np.uint8)
"""Three pixels around a cue in the view are removed with it."""
OBJECT = ["object_x0", "object_y0", "object_x1", "object_y1"]


@dataclass(frozen=True)
class Trial:
    """One cue in one photo: the pairs of variants that are predicted, and what the row already knows.

    Attributes:
        row: the columns of `effects` known before prediction.
        pairs: interventions; pairs of the same name are averaged.
        class_index: of the photo's class in the model's output.
    """

    row: dict
    pairs: list[Pair]
    class_index: int


def run_trials(trials: Iterable[Trial], classifier: Classifier, batch_size: int) -> Iterator[dict]:
    """Predicts the variants of trials in full batches and yields the rows of `effects`.

    Args:
        trials: in any order.
        classifier: the model under audit.
        batch_size: views per forward pass.
    """
    waiting: list[Trial] = []
    n_views = 0
    for trial in trials:
        waiting.append(trial)
        n_views += 2 * len(trial.pairs)
        if n_views >= batch_size:
            yield from _rows(waiting, classifier, batch_size)
            waiting, n_views = [], 0
    yield from _rows(waiting, classifier, batch_size)


def _rows(trials: list[Trial], classifier: Classifier, batch_size: int) -> Iterator[dict]:
    views = [view for trial in trials for pair in trial.pairs for view in (pair.removed, pair.control)]
    chunks = [views[i : i + batch_size] for i in range(0, len(views), batch_size)]
    probs = np.concatenate([classifier.predict(chunk) for chunk in chunks]) if chunks else np.empty((0, 0))
    start = 0
    for trial in trials:
        mine = probs[start : start + 2 * len(trial.pairs)]
        start += len(mine)
        for name in dict.fromkeys(pair.name for pair in trial.pairs):
            picked = np.array([pair.name == name for pair in trial.pairs])
            yield _row(trial, name, mine[0::2][picked], mine[1::2][picked])


def _row(trial: Trial, name: str, after: np.ndarray, control: np.ndarray) -> dict:
    before, c = trial.row["prob_before"], trial.class_index
    p_after, p_control = float(after[:, c].mean()), float(control[:, c].mean())
    flipped = trial.row["was_right"] and bool((after.argmax(axis=1) != c).mean() > 0.5)
    return {k: v for k, v in trial.row.items() if k != "was_right"} | {
        "intervention": name,
        "prob_after": p_after,
        "prob_control": p_control,
        "effect": before - p_after,
        "effect_control": before - p_control,
        "logit_effect": float(logit(before) - logit(after[:, c]).mean()),
        "logit_effect_control": float(logit(before) - logit(control[:, c]).mean()),
        "flipped": flipped,
    }


def make_pairs(
    view: np.ndarray, mask: np.ndarray | None, forbidden: np.ndarray, donors: Callable, scene: "Scene"
) -> list[Pair]:
    """Makes the interventions on one cue in one photo.

    Args:
        view: (h, w, 3) uint8.
        mask: (h, w) bool, or None for a whole-image cue.
        forbidden: (h, w) bool, what no control may touch.
        donors: `(number) -> list of (view without, view with)` from other classes, for a cue too large to control.
        scene: the cue's kind, the settings and the random numbers.

    Returns:
        The pairs; none when there is nothing to remove or no control to hold it against.
    """
    config = scene.config
    if mask is None:
        pair = whole_image_pair(view, scene.kind)
        return [] if pair is None else [pair]
    if not mask.any():
        return []
    pairs = []
    if mask.mean() <= config.max_area_frac:
        controls = [control_mask(mask, forbidden, scene.rng) for _ in range(config.controls)]
        pairs = [
            Pair(fill, FILLS[fill](view, mask), FILLS[fill](view, control))
            for fill in config.fills
            for control in controls
            if control is not None
        ]
    return pairs or [swap_pair(view, mask, *donor) for donor in donors(2)]


@dataclass(frozen=True)
class Scene:
    """What an intervention is chosen by."""

    kind: str
    config: AblateConfig
    rng: np.random.Generator


@dataclass(frozen=True)
class _Plan:
    """What is ablated: one row per class, cue and photo, and the donors of each class and cue."""

    trials: pl.DataFrame
    with_cue: dict[tuple[str, str], list[str]]
    without: dict[tuple[str, str], list[str]]
    siblings: dict[str, set[str]]


def _plan(run: Run) -> _Plan:
    config = run.config.ablate
    pairs = run.read("associations").filter(
        pl.min_horizontal("bias_p", "gap_p") * 2 <= config.screen_p, pl.col("n_audit_with") >= config.min_images
    )
    pairs = pairs.select("label", "cue_id", "phrase", "kind").sort("label", "cue_id")
    presences = run.read("presences", columns=["cue_id", "sample_id", "region_ids"])
    samples = run.read("samples", columns=["sample_id", "label", "audit"]).with_row_index("order")
    shown = presences.join(samples, on="sample_id")
    # Samples were shuffled at ingest: their order is a random queue, the same for every cue and shard.
    trials = pairs.join(shown.filter("audit"), on=["label", "cue_id"])
    trials = trials.sort("label", "cue_id", "order").group_by("label", "cue_id", maintain_order=True)
    trials = trials.head(config.images_per_cue)
    return _Plan(trials, *_donors(pairs, shown, samples, config), _siblings(run, pairs, config))


def _donors(pairs, shown, samples, config) -> tuple[dict, dict]:
    """Picks photos of other classes with the cue, the fullest first, and as many without it."""
    with_cue, without = {}, {}
    by_size = shown.with_columns(n=pl.col("region_ids").list.len()).sort(["n", "sample_id"], descending=[True, False])
    of_cue = dict(by_size.group_by("cue_id", maintain_order=True))
    for label, cue in pairs.select("label", "cue_id").iter_rows():
        mine = of_cue[(cue,)]
        with_cue[label, cue] = mine.filter(pl.col("label") != label)["sample_id"][: config.donors].to_list()
        others = samples.filter(pl.col("label") != label, ~pl.col("sample_id").is_in(mine["sample_id"].implode()))
        without[label, cue] = others["sample_id"][: config.donors].to_list()
    return with_cue, without


def _siblings(run: Run, pairs: pl.DataFrame, config: AblateConfig) -> dict[str, set[str]]:
    """Returns for each cue those that mean nearly the same: no control may hold a part of them."""
    cues = run.read("presences", columns=["cue_id", "phrase", "kind"]).unique(maintain_order=True)
    cues = cues.filter(~pl.col("kind").is_in(list(WHOLE_IMAGE_KINDS)))
    if not len(cues):
        return {}
    embeddings = load_text("minilm", run.config.compute).encode(cues["phrase"].to_list())
    alike = embeddings @ embeddings.T >= config.sibling_similarity
    ids = cues["cue_id"].to_list()
    wanted = set(pairs["cue_id"])
    return {ids[i]: {ids[j] for j in np.flatnonzero(alike[i])} for i in range(len(ids)) if ids[i] in wanted}


def _work(run: Run, shard: int | None) -> pl.DataFrame:
    plan = _plan(run)
    samples = run.read("samples", shard=shard)
    mine = plan.trials.filter(pl.col("sample_id").is_in(samples["sample_id"].implode()))
    if not len(mine):
        return frame_of("effects", [])
    classifier = load_classifier(run.config.model, run.config.compute, head_of(run.read("heads")))
    stage = _Shard(run, shard, plan, classifier)
    groups = [(key[0], part) for key, part in mine.group_by("sample_id", maintain_order=True)]
    # Variants are drawn in a second thread while the model computes.
    prepared = map_ahead(lambda group: stage.trials(*group), groups, ahead=4)
    trials = (trial for batch in prepared for trial in batch)
    return frame_of("effects", list(run_trials(trials, classifier, run.config.compute.batch_size)))


class _Shard:
    """Makes the trials of one shard's photos: decodes each once and draws the masks of its cues."""

    def __init__(self, run: Run, shard: int | None, plan: _Plan, classifier: Classifier) -> None:
        self._config: RunConfig = run.config
        self._plan, self._classifier = plan, classifier
        self._samples = {row["sample_id"]: row for row in run.read("samples").iter_rows(named=True)}
        own = run.read("samples", shard=shard, columns=["sample_id"])["sample_id"].implode()
        found = run.read("predictions", columns=["sample_id", "probs", "correct"])
        found = found.filter(pl.col("sample_id").is_in(own))
        self._predictions = {row["sample_id"]: row for row in found.iter_rows(named=True)}
        shown = run.read("presences", columns=["cue_id", "sample_id", "region_ids"])
        shown = shown.filter(pl.col("sample_id").is_in(own))
        self._cues = {key[0]: part.rows(named=True) for key, part in shown.group_by("sample_id")}
        wanted = shown["region_ids"].explode().unique().implode()
        regions = run.read("regions", shard=shard, columns=["region_id", *BOX, "mask_rle"])
        regions = regions.filter(pl.col("region_id").is_in(wanted))
        self._regions = {row["region_id"]: row for row in regions.iter_rows(named=True)}
        self._donor_view = lru_cache(maxsize=256)(self._view)

    def trials(self, sample_id: str, cues: pl.DataFrame) -> list[Trial]:
        """Returns the trials of one photo."""
        sample, known = self._samples[sample_id], self._predictions[sample_id]
        view = self._view(sample_id)
        masks = {row["cue_id"]: self._mask(row["region_ids"], sample, view.shape[:2]) for row in self._cues[sample_id]}
        index = self._classifier.classes.index(sample["label"])
        made = []
        for cue in cues.iter_rows(named=True):
            scene = Scene(cue["kind"], self._config.ablate, _rng(self._config.seed, sample_id, cue["cue_id"]))
            mask = None if cue["kind"] in WHOLE_IMAGE_KINDS else masks[cue["cue_id"]]
            near = [masks[other] for other in self._plan.siblings.get(cue["cue_id"], ()) if other in masks]
            forbidden = np.logical_or.reduce([np.zeros(view.shape[:2], bool), *near])
            donors = lambda n, cue=cue, scene=scene: self._donors(cue, n, scene.rng)  # noqa: E731
            pairs = make_pairs(view, mask, forbidden, donors, scene)
            row = {
                **{name: cue[name] for name in ("label", "cue_id", "sample_id")},
                "area_frac": 1.0 if mask is None else float(mask.mean()),
                "prob_before": known["probs"][index],
                "was_right": known["correct"],
                "object_overlap": self._object_overlap(mask, sample),
            }
            made.append(Trial(row, pairs, index))
        return made

    def _view(self, sample_id: str) -> np.ndarray:
        dataset = self._config.dataset
        path = Path(dataset.root) / self._samples[sample_id]["uri"]
        return self._classifier.view(read_image(path, max_pixels=dataset.max_pixels))

    def _mask(self, region_ids: list[str], sample: dict, shape: tuple[int, int]) -> np.ndarray:
        size = (sample["height_px"], sample["width_px"])
        field = self._classifier.field(*size)
        mask = np.zeros(shape, bool)
        for region in (self._regions[region_id] for region_id in region_ids):
            box = np.array([np.nan if region[name] is None else region[name] for name in BOX], np.float32)
            mask |= draw_mask(box, region["mask_rle"], size, shape, field=field)
        # What borders on a cue is mixed with it (smoothing, JPEG): a rim left behind would still show its shape.
        return cv2.dilate(mask.astype(np.uint8), RIM).astype(bool)

    def _donors(self, cue: dict, number: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        key = (cue["label"], cue["cue_id"])
        showing, lacking = self._plan.with_cue[key], self._plan.without[key]
        if len(showing) < number or len(lacking) < number:
            return []
        picked = zip(rng.permutation(lacking)[:number], rng.permutation(showing)[:number], strict=True)
        return [(self._donor_view(str(a)), self._donor_view(str(b))) for a, b in picked]

    def _object_overlap(self, mask: np.ndarray | None, sample: dict) -> float | None:
        if mask is None or sample["object_x0"] is None or not mask.any():
            return None
        size = (sample["height_px"], sample["width_px"])
        box = np.array([sample[name] for name in OBJECT], np.float32)
        inside = draw_mask(box, None, size, mask.shape, field=self._classifier.field(*size))
        return float((mask & inside).sum() / mask.sum())


def _rng(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32("\n".join(names).encode())])


STAGE = Stage(
    name="ablate",
    table="effects",
    inputs=("samples", "heads", "predictions", "presences", "regions", "associations"),
    config=lambda config: (config.ablate, config.model, config.dataset.root),
    work=_work,
    sharded=True,
)
