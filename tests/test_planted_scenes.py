"""Scenes: what is planted is in the pixels, where its box says, and nowhere else."""

import itertools

import numpy as np
import pytest
from PIL import Image

from discovery.planted_cues import PATTERNS
from discovery.planted_recipe import Plant, Recipe
from discovery.planted_scenes import load_objects, render


def _recipe(**changes: object) -> Recipe:
    values = {"classes": ("one", "three", "eight"), "train_per_class": 20, "test_per_class": 10, "canvas_px": 160}
    return Recipe(**(values | changes))


def _pair(phrase: str, kind: str, key: tuple[int, int] = (0, 3), **changes: object):
    """The same photo without and with one plant, as int arrays, and the plant's box."""
    recipe = _recipe(plants=(Plant(phrase=phrase, kind=kind, role="decoy", **changes),))
    digit = load_objects(recipe)["three"][0]
    bare, full = render(recipe, digit, [False], key), render(recipe, digit, [True], key)
    return bare.image.astype(int), full.image.astype(int), full.boxes[0]


@pytest.mark.parametrize(
    "phrase", ["red circle", "green triangle", "blue square", "yellow star", "watermark", "caption"]
)
@pytest.mark.parametrize("number", range(6))
def test_box_holds_all_changed_pixels_and_fits_them(phrase, number):
    bare, full, box = _pair(phrase, "object", (1, number))
    y, x = np.nonzero((bare != full).any(axis=2))
    drawn = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert (np.abs(box - drawn) <= [4, 4, 4, 4]).all()
    assert (box[:2] <= drawn[:2]).all()
    assert (box[2:] >= drawn[2:]).all()
    assert not ((box[:2] < 96) & (box[2:] > 64)).all(), "covers the middle"


@pytest.mark.parametrize(("phrase", "rgb"), [("red circle", (214, 36, 40)), ("blue square", (34, 84, 206))])
def test_sticker_has_its_colour(phrase, rgb):
    _, full, box = _pair(phrase, "object")
    x, y = ((box[:2] + box[2:]) / 2).astype(int)
    assert full[y, x].tolist() == list(rgb)


def test_text_is_really_drawn():
    bare, full, (x0, y0, x1, y1) = _pair("date stamp", "text")
    inside = slice(int(y0), int(y1)), slice(int(x0), int(x1))
    assert 0.3 < (np.abs(full - bare)[inside].max(axis=2) > 20).mean() < 0.95
    ink = (full[inside] @ [1, 0, -1] > 120).any(axis=0)
    assert (ink[1:] & ~ink[:-1]).sum() + ink[0] >= 4, "several letters apart"
    assert (x1 - x0) > 3 * (y1 - y0)


def test_text_can_be_read_by_a_reader():
    reader = pytest.importorskip("rapidocr_onnxruntime", reason="the offline extra is not installed")
    _, full, _ = _pair("date stamp", "text", (0, 5))
    found, _ = reader.RapidOCR()(full.astype(np.uint8)[..., ::-1])
    assert found is not None
    assert sum(character.isdigit() for character in found[0][1]) >= 6


@pytest.mark.parametrize("frac", [0.04, 0.08])
def test_border_is_as_thick_as_stated_and_only_there(frac):
    bare, full, box = _pair("magenta border", "border", border_frac=frac)
    width = round(160 * frac)
    assert (full[:width] == [218, 34, 190]).all()
    assert (full[width:-width, width:-width] == bare[width:-width, width:-width]).all()
    assert box.tolist() == [0, 0, 160, 160]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_fills_the_canvas_behind_the_object(pattern):
    bare, full, box = _pair(pattern, "texture")
    corners = [full[:40, :40], full[:40, -40:], full[-40:, :40], full[-40:, -40:]]
    assert box is None
    assert min(corner.std() for corner in corners) > 1.3 * bare[:40, :40].std()


def test_whole_image_changes_do_what_they_say():
    bare, tinted, _ = _pair("orange tint", "colour")
    assert tinted[..., 0].mean() - tinted[..., 2].mean() > 40 > abs(bare[..., 0].mean() - bare[..., 2].mean())
    assert _pair("dark image", "lighting")[1].mean() < 0.5 * bare.mean()
    assert _pair("bright image", "lighting")[1].mean() > 1.2 * bare.mean()
    assert _pair("low contrast", "lighting")[1].std() < 0.5 * bare.std()
    blurred = _pair("blurry image", "quality")[1]
    assert np.abs(np.diff(blurred, axis=0)).mean() < 0.4 * np.abs(np.diff(bare, axis=0)).mean()


def test_contrast_decides_how_plain_the_object_is():
    shades = []
    for contrast in (0.2, 0.8):
        recipe = _recipe(plants=(), contrast=contrast, noise=0)
        image = render(recipe, load_objects(recipe)["three"][0], [], (0, 0)).image.astype(int)
        shades.append(np.ptp(image[30:66, 30:66]))
    assert shades[1] > 2 * shades[0]


def test_label_noise_gives_a_share_of_train_objects_to_another_class():
    clean, noisy = (load_objects(_recipe(label_noise=share)) for share in (0.0, 0.25))
    pairs = [[a is b or np.array_equal(a, b) for a, b in zip(clean[c], noisy[c], strict=True)] for c in clean]
    assert [sum(not same for same in row[:20]) for row in pairs] == [5, 5, 5]
    assert all(all(row[20:]) for row in pairs)


def test_pattern_lies_around_the_middle_of_a_photo(tmp_path):
    for name in ("one", "three", "eight"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (240, 180), (200, 60, 10)).save(tmp_path / name / "photo.jpg")
    stripes = Plant(phrase="stripes", kind="texture", role="decoy")
    counts = {"train_per_class": 1, "test_per_class": 0}
    recipe = _recipe(objects=str(tmp_path), contrast=1, noise=0, plants=(stripes,), **counts)
    image = render(recipe, load_objects(recipe)["eight"][0], [True], (0, 0)).image
    assert image[60:100, 60:100].std(axis=(0, 1)).max() < 8
    assert image[:30].std(axis=(0, 1)).min() > 10


@pytest.mark.parametrize(
    "phrases", [("caption", "red star", "date stamp"), ("watermark", "red star", "date stamp", "green square")]
)
def test_overlays_never_cover_each_other(phrases):
    kinds = ["object" if " s" in phrase and "stamp" not in phrase else "text" for phrase in phrases]
    plants = [Plant(phrase=p, kind=k, role="decoy") for p, k in zip(phrases, kinds, strict=True)]
    recipe = _recipe(plants=plants)
    digit = load_objects(recipe)["one"][0]
    for number in range(12):
        boxes = render(recipe, digit, [True] * len(phrases), (0, number)).boxes
        for a, b in itertools.combinations(boxes, 2):
            assert (np.minimum(a[2:], b[2:]) <= np.maximum(a[:2], b[:2])).any()
