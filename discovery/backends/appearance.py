"""Images and named appearances → regions: coloured shapes, frames, tints, lighting, blur; computed, no model."""

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np

from discovery.backends import tones
from discovery.backends.borders import find_bars, find_frame
from discovery.backends.colours import COLOURS, View
from discovery.backends.detector import Phrase
from discovery.backends.shapes import SHAPES, find_objects, find_shapes
from discovery.regions import Regions, encode_rle

FLOOR = 0.2
"""Scores below are not written; from 0.5 on it is there."""
_MAX_PER_PHRASE = 5

Place = tuple[np.ndarray | None, float, np.ndarray | None]
"""Box in pixels of the photo or None for the whole photo, score, mask or None."""
Look = Callable[[View], list[Place]]

_NOUNS = {shape: shape for shape in SHAPES} | {"sticker": "sticker", "patch": "sticker", "object": "object"}
_STRIPS = {"border": find_frame, "frame": find_frame, "bars": find_bars, "letterbox": find_bars}
_LIGHTING = {
    "dark": tones.dark,
    "bright": tones.bright,
    "low contrast": tones.low_contrast,
    "high contrast": tones.high_contrast,
    "backlit": tones.backlit,
}
_QUALITY = {"blurry": tones.blurry, "noisy": tones.noisy}
_PALETTES = {
    "black and white": tones.greyscale,
    "greyscale": tones.greyscale,
    "sepia": tones.sepia,
    "vivid colours": tones.vivid,
}
_SPELLINGS = {
    "gray": "grey",
    "grayscale": "greyscale",
    "colors": "colours",
    "violet": "purple",
    "disc": "circle",
}


class AppearanceDetector:
    """Finds named colours, shapes, frames, casts, lighting and blur; scores are absolute, so photos never mix.

    It sees only the phrases of its table, with the kind given there: `<colour> circle` (square, triangle, star,
    sticker, patch, object), `<colour> border` (frame, bars), `<colour> tint`, `<colour> background`, `mostly <colour>`,
    `dark image`, `blurry image` and the like. A photo is measured at `colours.SIDE_PX`.
    """

    def sees(self, phrase: Phrase) -> bool:
        return _key(phrase) in _LOOKS

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Phrase]) -> Regions:
        looks = [_LOOKS[_key(phrase)] for phrase in phrases]
        rows = []
        for i, image in enumerate(images):
            view = View(image)
            for p, look in enumerate(looks):
                places = sorted((place for place in look(view) if place[1] >= FLOOR), key=lambda place: -place[1])
                rows += [
                    (i, p, box, score, None if mask is None else encode_rle(mask))
                    for box, score, mask in places[:_MAX_PER_PHRASE]
                ]
        return Regions.build(rows)


def appearance_phrases() -> list[tuple[str, str]]:
    """Returns the (phrase, kind) that are worth offering to every class: one of each group of synonyms."""
    coloured = [(f"{colour} {shape}", "object") for colour in COLOURS for shape in SHAPES]
    coloured += [(f"{colour} border", "border") for colour in COLOURS]
    coloured += [(f"{colour} bars", "border") for colour in ("black", "white")]
    coloured += [(f"{colour} tint", "colour") for colour in tones.TINT_HUES]
    coloured += [(f"{colour} background", "colour") for colour in COLOURS]
    palettes = [(name, "colour") for name in _PALETTES if name != "greyscale"]
    lighting = [(f"{name} image", "lighting") for name in _LIGHTING]
    return coloured + palettes + lighting + [(f"{name} image", "quality") for name in _QUALITY]


def _key(phrase: Phrase) -> tuple[str, str]:
    words = [_SPELLINGS.get(word, word) for word in phrase.text.lower().split()]
    return " ".join(words), phrase.kind


def _table() -> dict[tuple[str, str], Look]:
    """Builds (phrase, kind) → how to look for it."""
    looks: dict[tuple[str, str], Look] = {}
    for noun, find in _STRIPS.items():
        looks[noun, "border"] = partial(_strip, find=find, colour=None)
    for colour in COLOURS:
        looks |= {(f"{colour} {noun}", "object"): partial(_blobs, colour=colour, shape=_NOUNS[noun]) for noun in _NOUNS}
        looks |= {
            (f"{colour} {noun}", "border"): partial(_strip, find=_STRIPS[noun], colour=colour) for noun in _STRIPS
        }
        looks[f"mostly {colour}", "colour"] = partial(_whole, measure=partial(tones.share, colour=colour))
        looks[f"{colour} background", "colour"] = partial(_whole, measure=partial(tones.backdrop, colour=colour))
        looks[f"{colour} background", "background"] = partial(_backdrop, colour=colour)
    for colour in tones.TINT_HUES:
        for noun in ("tint", "cast"):
            looks[f"{colour} {noun}", "colour"] = partial(_whole, measure=partial(tones.tint, colour=colour))
    for kind, measures in (("lighting", _LIGHTING), ("quality", _QUALITY), ("colour", _PALETTES)):
        for name, measure in measures.items():
            for text in (name, f"{name} image", f"{name} photo", f"{name} lighting"):
                looks[text, kind] = partial(_whole, measure=measure)
    return looks


def _whole(view: View, measure: Callable[[View], float]) -> list[Place]:
    return [(None, measure(view), None)]


def _blobs(view: View, colour: str, shape: str) -> list[Place]:
    find = find_objects if shape == "object" else find_shapes
    return [(blob.xyxy, blob.scores[shape], blob.mask) for blob in view.once(find, colour)]


def _strip(view: View, find: Callable, colour: str | None) -> list[Place]:
    strip = view.once(find)
    if strip is None or not strip.is_called(colour):
        return []
    height, width = view.rgb.shape[:2]
    return [(np.array([0, 0, width, height], np.float32), strip.score, strip.mask)]


def _backdrop(view: View, colour: str) -> list[Place]:
    """The parts of the colour that reach the photo's sides, as a region that can be replaced."""
    _, labels = cv2.connectedComponents(view.mask(colour).astype(np.uint8))
    sides = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    mask = np.isin(labels, np.unique(sides[sides > 0]))
    if not mask.any():
        return []
    y, x = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], np.float32) * view.to_photo
    return [(box, tones.backdrop(view, colour), mask)]


_LOOKS = _table()
