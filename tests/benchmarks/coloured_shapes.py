"""A generator → scenes of named coloured shapes on busy ground, with the box and the name of each; and how well named
boxes are found in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from discovery.planted_cues import COLOURS as INKS
from discovery.planted_cues import SHAPES
from discovery.regions import Regions

COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
HELD_OUT = ("red triangle", "green star", "blue circle", "yellow square")
"""Never drawn and never named in training; each colour and each shape is seen there with others."""
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
KNOWN = tuple(name for name in NAMES if name not in HELD_OUT)
SIDE_PX = 96
_SHIFT = 4  # fractional bits of drawn corners


@dataclass(frozen=True)
class Scene:
    """One drawn scene: (S, S, 3) uint8, the names of what is in it, and their (n, 4) float32 boxes in pixels."""

    image: np.ndarray
    names: tuple[str, ...]
    boxes: np.ndarray


def draw_scene(names: Sequence[str], rng: np.random.Generator) -> Scene:
    """Draws named shapes at random places; those that find no free place are left out."""
    image, boxes, drawn = _ground(rng), [], []
    for name in names:
        colour, shape = name.split()
        box = _free_box(boxes, rng)
        if box is None:
            continue
        ink = np.clip(np.array(INKS[colour]) + rng.normal(0, 10, 3), 0, 255)
        points = outline(shape, box, rng)
        cv2.fillPoly(image, [np.round(points * 2**_SHIFT).astype(np.int32)], ink.tolist(), cv2.LINE_AA, _SHIFT)
        boxes.append(np.concatenate([points.min(0), points.max(0)]))
        drawn.append(name)
    image = image + rng.normal(0, rng.uniform(0, 6), image.shape)
    pixels = np.clip(np.round(image * rng.uniform(0.85, 1.1)), 0, 255).astype(np.uint8)
    return Scene(pixels, tuple(drawn), np.array(boxes, np.float32).reshape(-1, 4))


def outline(shape: str, box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the (n, 2) corners of a shape in a square box, slightly turned."""
    if shape == "circle":
        angles, radius = np.linspace(0, 2 * np.pi, 40, endpoint=False), np.ones(40)
    elif shape == "square":
        angles, radius = np.pi / 4 + np.arange(4) * np.pi / 2, np.full(4, 1.2)
    elif shape == "triangle":
        angles, radius = -np.pi / 2 + np.arange(3) * 2 * np.pi / 3, np.full(3, 1.15)
    else:
        angles, radius = -np.pi / 2 + np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 0.46, 1.12)
    angles = angles + rng.normal(0, 0.08)
    centre, half = (box[:2] + box[2:]) / 2, (box[2] - box[0]) / 2
    return centre + half * radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def some_names(pool: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Returns one to three different names."""
    return rng.choice(pool, int(rng.integers(1, 4)), replace=False).tolist()


@dataclass(frozen=True)
class Found:
    """How well named shapes were found: shares of those drawn, and of the boxes that were drawn around them."""

    recall: float
    precision: float
    n_drawn: int
    n_boxes: int


def score_found(scenes: Sequence[Scene], phrases: Sequence[str], found: Regions, floor: float) -> Found:
    """Returns recall and precision of boxes from a score on, a box being right at an IoU of 0.5 with a thing so named.

    Args:
        scenes: what was shown.
        phrases: what was asked for; nothing else is counted.
        found: regions whose `phrase` indexes `phrases`.
        floor: the score from which a box counts.
    """
    true = {(i, name): [] for i, scene in enumerate(scenes) for name in scene.names if name in phrases}
    for i, scene in enumerate(scenes):
        for name, box in zip(scene.names, scene.boxes, strict=True):
            if name in phrases:
                true[i, name].append(box)
    counts = found.score >= floor
    right, hit = 0, set()
    for i, p, box in zip(found.image[counts], found.phrase[counts], found.xyxy[counts], strict=True):
        matches = [k for k, other in enumerate(true.get((int(i), phrases[p]), [])) if _iou(box, other) >= 0.5]
        new = [(int(i), phrases[p], k) for k in matches if (int(i), phrases[p], k) not in hit]
        right += bool(new)
        hit.update(new[:1])
    n_drawn = sum(len(boxes) for boxes in true.values())
    return Found(len(hit) / max(1, n_drawn), right / max(1, int(counts.sum())), n_drawn, int(counts.sum()))


def held_out_scenes(n: int, seed: int) -> list[Scene]:
    """Returns scenes with one held-out thing each, beside up to two that training knew."""
    rng = np.random.default_rng([seed, 1])
    return [
        draw_scene([HELD_OUT[i % len(HELD_OUT)], *some_names(KNOWN, rng)[: int(rng.integers(0, 3))]], rng)
        for i in range(n)
    ]


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Returns (S, S, 3) float32: a smooth field of muted colours with lines and blots of no name on it."""
    coarse = rng.uniform(40, 215, 3) + rng.normal(0, rng.uniform(5, 40), (int(rng.integers(2, 9)),) * 2 + (3,))
    grey = coarse.mean(-1, keepdims=True)
    ground = cv2.resize((grey + (coarse - grey) * rng.uniform(0, 0.5)).astype(np.float32), (SIDE_PX, SIDE_PX))
    for _ in range(int(rng.integers(0, 5))):
        ends, ink = rng.integers(0, SIDE_PX, (2, 2)), rng.uniform(20, 235) + rng.normal(0, 12, 3)
        cv2.line(ground, ends[0].tolist(), ends[1].tolist(), ink.tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return np.ascontiguousarray(ground)


def _free_box(taken: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray | None:
    for _ in range(20):
        side = rng.uniform(12, 40)
        low = rng.uniform(2, SIDE_PX - side - 2, 2)
        box = np.concatenate([low, low + side])
        if all(_iou(box, other) == 0 for other in taken):
            return box
    return None


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    common = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
    return float(common / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - common))
