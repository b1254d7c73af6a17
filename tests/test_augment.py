"""Repair by changed copies: a model that reads a red square in the corner learns the square in the middle instead."""

import numpy as np
import polars as pl
import pytest
from PIL import Image
from red_model import RED

from discovery.backends.roles import Head, softmax
from discovery.config import RetrainConfig, make_config
from discovery.cue_groups import combine
from discovery.errors import BackendError, DataError
from discovery.repairs.altered import Alterations, alter, laid_over
from discovery.repairs.linear_fit import Penalty, Scaled, fit_linear
from discovery.repairs.menu import load_repair
from discovery.repairs.task import Task, group_accuracy
from discovery.run import Run, frame_of

CLASSES = ("cat", "dog")
GROUND = {"cat": (60, 160, 60), "dog": (60, 60, 160)}


class Cells:
    """A model on the mean colours of a 7 × 7 grid, with a linear layer."""

    classes = CLASSES
    head: Head | None = None

    def view(self, image):
        return image

    def field(self, height_px, width_px):
        return np.array([0, 0, width_px, height_px], np.float32)

    def features(self, views):
        return np.stack([v.reshape(7, 8, 7, 8, 3).mean(axis=(1, 3)).ravel() / 255 for v in views]).astype(np.float32)

    def predict(self, views):
        return softmax(self.head.logits(self.features(views)))

    def linear(self):
        return self.head


def photo(label: str, cue: bool, rng: np.random.Generator) -> np.ndarray:
    """Draws noise with a faint patch of the class's colour in the middle, and the cue in the corner."""
    pixels = np.full((56, 56, 3), 110.0)
    pixels[24:32, 24:32] = 0.35 * np.array(GROUND[label]) + 0.65 * 110
    if cue:
        pixels[0:8, 0:8] = RED
    return np.clip(pixels + rng.normal(0, 14, pixels.shape) + rng.normal(0, 9, 3), 0, 255).astype(np.uint8)


@pytest.fixture
def task(tmp_path, rng) -> Task:
    return make_task(tmp_path, rng)


def make_task(tmp_path, rng) -> Task:
    """Draws 120 photos in which the red square goes with cats in 95 of 100, and a layer that was fitted on them."""
    label = np.arange(120) % 2
    shown = np.where(rng.random(120) < 0.95, label == 0, label == 1)[:, None]
    views = [photo(CLASSES[y], bool(s[0]), rng) for y, s in zip(label, shown, strict=True)]
    (tmp_path / "photos").mkdir()
    names = [f"{i}.png" for i in range(120)]
    for name, view in zip(names, views, strict=True):
        Image.fromarray(view).save(tmp_path / "photos" / name)
    run = Run.create(tmp_path / "run", make_config({"dataset": {"root": str(tmp_path / "photos")}}))
    having = [name for name, s in zip(names, shown, strict=True) if s[0]]
    box = {"x0": 0.0, "y0": 0.0, "x1": 8.0, "y1": 8.0, "score": 1.0, "detector": "appearance"}
    seen = {"cue_id": "c", "phrase": "red square", "kind": "object", "score": 1.0}
    tables = {
        "samples": [{"sample_id": n, "uri": n, "label": CLASSES[y]} for n, y in zip(names, label, strict=True)],
        "regions": [{"region_id": f"r{n}", "sample_id": n, **box} for n in having],
        "presences": [{**seen, "sample_id": n, "region_ids": [f"r{n}"]} for n in having],
    }
    for table, rows in tables.items():
        run.write(table, frame_of(table, rows), shard=0, fingerprint="x")
    model = Cells()
    features = model.features(views)
    scaled = Scaled.of(features)
    model.head = scaled.head(fit_linear(scaled, label, np.ones(120), 2, Penalty("l2", 0.01), None), CLASSES)
    return Task(
        run=run,
        config=RetrainConfig(method="augment", inverse_regularisation=(0.01,), augment_photos=20),
        folder=tmp_path / "repairs",
        model=model,
        cues=pl.DataFrame({"label": ["cat"], "cue_id": ["c"], "phrase": ["red square"], "kind": ["object"]}),
        sample_id=np.array(names),
        label=label,
        shown=shown,
        groups=combine(label, shown, np.array([[True], [False]]), (CLASSES, ("red square",)), 1),
        features=lambda: features,
        head=lambda: model.head,
    )


def judged(head: Head, model: Cells) -> np.ndarray:
    """Returns accuracies of the four groups on new photos in which nothing is tied."""
    rng = np.random.default_rng(1)
    label, shown = np.arange(400) % 2, (np.arange(400) // 2 % 2 == 0)[:, None]
    views = [photo(CLASSES[y], bool(s[0]), rng) for y, s in zip(label, shown, strict=True)]
    groups = combine(label, shown, np.array([[True], [False]]), (CLASSES, ("red square",)), 1)
    return group_accuracy(head.logits(model.features(views)).argmax(axis=1) == label, groups)


def test_the_repair_lifts_the_worst_group_and_says_what_it_cost(task):
    before = judged(task.head(), task.model)
    repaired = load_repair("augment")(task)
    after = judged(repaired.head, task.model)
    assert after.min() > before.min() + 0.1
    copies = repaired.facts["copies"]
    assert copies["removal: made"] == copies["paste: made"] == 20
    assert copies["flip: made"] > 0
    assert copies["forwards"] > 49 * copies["flip: made"]


def test_a_copy_keeps_its_label_and_changes_only_its_cue(task):
    copies = list(alter(task, made := Alterations(task), 3))
    assert sum(made.counts[f"{what}: made"] for what in ("flip", "removal", "paste")) == len(copies)
    removed = [copy for copy in copies if copy.row == copy.source][-3:]
    pasted = [copy for copy in copies if copy.row != copy.source]
    assert len(pasted) == 3
    for copy in [*removed, *pasted]:
        before = made.seen(copy.row).view
        np.testing.assert_array_equal(copy.view[12:], before[12:])
        assert (copy.view[:8, :8] != before[:8, :8]).any()
    assert {int(task.label[copy.row]) for copy in removed} == {0}
    assert {int(task.label[copy.row]) for copy in pasted} == {1}
    assert all(task.shown[copy.source, 0] and not task.shown[copy.row, 0] for copy in pasted)


def test_what_flips_is_replaced_by_other_parts_of_the_same_photo(rng):
    view = rng.integers(0, 255, (10, 10, 3)).astype(np.uint8)
    cells = np.zeros((3, 10, 10), bool)
    cells[0, :4, :4] = cells[1, 6:, 6:9] = cells[2, :2, 8:] = True
    changed = laid_over(view, cells, (0,), [1])
    np.testing.assert_array_equal(changed[~cells[0]], view[~cells[0]])
    np.testing.assert_array_equal(changed[:4, :3], view[6:, 6:9])
    np.testing.assert_array_equal(changed[:4, 3], view[6:, 8])  # continued by its mirror image


def test_photos_that_are_wrong_or_that_nothing_flips_are_skipped_and_counted(task):
    task.model.head = Head(CLASSES, np.zeros((2, 147)), np.array([5.0, 0.0]))
    made = Alterations(task)
    assert [made.flipped(row) for row in (0, 1)] == [None, None]
    assert (made.counts["flip: nothing flips it"], made.counts["flip: wrong as it is"]) == (1, 1)


def test_a_cue_without_regions_and_photos_without_a_flip_leave_nothing_to_fit_on(task):
    shown = task.run.read("presences").with_columns(region_ids=pl.lit([], pl.List(pl.String)))
    task.run.write("presences", shown, shard=0, fingerprint="x")
    task.model.head = Head(CLASSES, np.zeros((2, 147)), np.array([5.0, 0.0]))
    with pytest.raises(DataError, match=r"no photo for red square .*no region in view.*--method groupdro"):
        load_repair("augment")(task)


def test_a_model_without_features_is_refused(task):
    object.__setattr__(task, "model", object())
    with pytest.raises(BackendError, match="needs a model that gives its features"):
        load_repair("augment")(task)
