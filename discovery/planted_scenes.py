"""A digit or photo and the cues to show → one image, and the boxes of what was planted in it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from discovery import planted_cues as cues
from discovery.errors import ConfigError, DataError
from discovery.images import SUFFIXES, read_image
from discovery.planted_recipe import CORNERS, Recipe

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MAX_PIXELS = 50_000_000
_SCENE, _PLANTS = 0, 1

Thing = np.ndarray | Path
"""What an image is of: a digit as (8, 8) float32 ink in [0, 1], or the path of a photo."""


@dataclass(frozen=True)
class Scene:
    """One drawn image.

    Attributes:
        image: (S, S, 3) uint8.
        boxes: for each plant `xyxy` pixels, or None where it is absent or has no place.
    """

    image: np.ndarray
    boxes: tuple[np.ndarray | None, ...]


def render(recipe: Recipe, thing: Thing, shown: Sequence[bool], key: tuple[int, int]) -> Scene:
    """Draws one image: background, object, noise, change of light, then what is laid over the photo.

    What is drawn for one plant does not depend on which others are shown, so that two calls that differ in one entry of
    `shown` give the same photo with and without that cue.

    Args:
        recipe: what is planted, and how well the object can be seen.
        thing: the object.
        shown: for each plant whether it is there.
        key: number of the split and of the image in it.
    """
    rng = np.random.default_rng([recipe.seed, *key, _SCENE])
    side = recipe.canvas_px
    planted = [cues.parse_cue(item.phrase) for item in recipe.plants]
    own = [np.random.default_rng([recipe.seed, *key, _PLANTS, i]) for i in range(len(planted))]
    visible = [i for i, there in enumerate(shown) if there]
    patterns = [cues.draw_pattern(planted[i], side, own[i]) for i in visible if planted[i].family == "texture"]
    photo = _photo(thing, side, recipe.contrast, patterns, rng)
    photo += recipe.noise * rng.standard_normal(photo.shape, dtype=np.float32)
    free = CORNERS - sum(cue.corners for cue in planted if cue.corners == 2)  # a caption leaves the upper ones
    corners = iter(rng.permutation(free))
    corner = {i: int(next(corners)) for i, cue in enumerate(planted) if cue.corners == 1}
    for i in visible:
        if planted[i].family in ("tint", "change"):
            photo = cues.change_photo(planted[i], photo)
    image, boxes = np.clip(photo, 0, 255), [None] * len(planted)
    for i in visible:
        if planted[i].corners:
            image, boxes[i] = cues.draw_overlay(planted[i], image, corner.get(i, -1), own[i])
    for i in sorted(visible, key=lambda i: -recipe.plants[i].border_frac):  # a thin frame lies on a thick one
        if planted[i].family == "border":
            image = cues.draw_border(planted[i], image, recipe.plants[i].border_frac)
            boxes[i] = np.array([0, 0, side, side], np.float32)
    return Scene(np.clip(np.round(image), 0, 255).astype(np.uint8), tuple(boxes))


def load_objects(recipe: Recipe) -> dict[str, list[Thing]]:
    """Returns for each class its objects in drawn order, one per image: first the train split's, then the test's.

    Raises:
        ConfigError: a class is no digit.
        DataError: a class has too few objects.
    """
    found = _digits(recipe.classes) if recipe.objects == "digits" else _photos(recipe)
    rng = np.random.default_rng([recipe.seed, 2])
    wanted = recipe.train_per_class + recipe.test_per_class
    few = [f"{name!r} has {len(things)}" for name, things in found.items() if len(things) < wanted]
    if few:
        raise DataError(
            f"{recipe.objects}: a class needs {wanted} objects (recipe.train_per_class + test_per_class), "
            f"{', '.join(few)}; lower the counts"
        )
    drawn = {name: [things[i] for i in rng.permutation(len(things))[:wanted]] for name, things in found.items()}
    return _mislabel(drawn, recipe, rng)


def objects_state(recipe: Recipe) -> str:
    """Returns a hash that changes when a photo of the object folder is added, removed or resized."""
    if recipe.objects == "digits":
        return "digits"
    found = [(path.as_posix(), path.stat().st_size) for paths in _photos(recipe).values() for path in paths]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:24]


def _photo(
    thing: Thing, side_px: int, contrast: float, patterns: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Lays the object over a plain paper or the patterns; returns (S, S, 3) float32."""
    behind = _paper(side_px, rng)
    if patterns:
        behind = np.mean(patterns, axis=0)
    if isinstance(thing, Path):
        pixels = Image.fromarray(read_image(thing, max_pixels=_MAX_PIXELS))
        colour = np.asarray(ImageOps.fit(pixels, (side_px, side_px)), np.float32)
        alpha = _oval(side_px) if patterns else np.ones((side_px, side_px), np.float32)
    else:
        colour = np.float32(30 + rng.uniform(-12, 12, 3))
        alpha = _ink(thing, side_px, rng)
    return behind + contrast * alpha[..., None] * (colour - behind)


def _paper(side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a neutral surface with uneven light, (S, S, 3) float32."""
    light = _smooth(rng.normal(0, 9, (4, 4)), side_px)
    tone = rng.uniform(142, 186) + rng.uniform(-1, 1) * np.array([7, 1, -8])
    return (tone + light[..., None]).astype(np.float32)


def _ink(digit: np.ndarray, side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a digit near the middle, about half the canvas high; returns (S, S) float32 opacity."""
    size = round(side_px * rng.uniform(0.46, 0.52))
    ink = np.clip((_smooth(np.pad(digit, 1), size) - 0.32) / 0.36, 0, 1)
    left, top = (side_px - size) // 2 + rng.integers(-round(0.03 * side_px), round(0.03 * side_px) + 1, 2)
    alpha = np.zeros((side_px, side_px), np.float32)
    alpha[top : top + size, left : left + size] = ink
    return alpha


def _smooth(values: np.ndarray, side_px: int) -> np.ndarray:
    """Magnifies a small square array by cubic interpolation."""
    return cv2.resize(values.astype(np.float32), (side_px, side_px), interpolation=cv2.INTER_CUBIC)


def _oval(side_px: int) -> np.ndarray:
    """Returns (S, S) float32: 1 in the middle, falling softly to 0 towards the sides."""
    y, x = np.mgrid[:side_px, :side_px] / (side_px - 1) * 2 - 1
    return np.clip((0.85 - np.hypot(x, y)) / 0.12, 0, 1).astype(np.float32)


def _digits(classes: Sequence[str]) -> dict[str, list[Thing]]:
    """Returns scikit-learn's handwritten digits by class; names may be three, 3 or digit 3."""
    number = {name: i for i, word in enumerate(DIGITS) for name in (word, str(i), f"digit {i}")}
    unknown = [name for name in classes if name not in number]
    if unknown:
        raise ConfigError(f"recipe.classes: {unknown[0]!r} is no digit; choose from {', '.join(DIGITS)}")
    ink, target = _load_digits()
    return {name: list(ink[target == number[name]]) for name in classes}


@cache
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


def _photos(recipe: Recipe) -> dict[str, list[Thing]]:
    root = Path(recipe.objects)
    missing = [name for name in recipe.classes if not (root / name).is_dir()]
    if missing:
        raise DataError(
            f"recipe.objects: no folder {root / missing[0]}; give digits, or a folder of class/*.jpg with all classes"
        )
    return {
        name: sorted(path for path in (root / name).iterdir() if path.suffix.lower() in SUFFIXES)
        for name in recipe.classes
    }


def _mislabel(drawn: dict[str, list[Thing]], recipe: Recipe, rng: np.random.Generator) -> dict[str, list[Thing]]:
    """Passes a share of each class's train objects on to the next class."""
    n_wrong = round(recipe.label_noise * recipe.train_per_class)
    wrong = {name: rng.permutation(recipe.train_per_class)[:n_wrong] for name in drawn}
    given = {name: list(things) for name, things in drawn.items()}
    for name, donor in zip(drawn, [*list(drawn)[1:], next(iter(drawn))], strict=True):
        for to, origin in zip(wrong[name], wrong[donor], strict=True):
            given[name][to] = drawn[donor][origin]
    return given
