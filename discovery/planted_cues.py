"""A phrase and a photo → the photo with that cue drawn into it, and the box of what was drawn."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from discovery.errors import ConfigError

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 40),
    "orange": (240, 132, 20),
    "yellow": (244, 208, 30),
    "green": (38, 158, 66),
    "cyan": (28, 190, 208),
    "blue": (34, 84, 206),
    "purple": (118, 52, 172),
    "magenta": (218, 34, 190),
    "pink": (240, 120, 180),
    "brown": (124, 74, 36),
    "black": (18, 18, 20),
    "white": (246, 246, 246),
    "grey": (128, 128, 128),
}
SHAPES = ("circle", "square", "triangle", "star")
PHOTO_CHANGES = ("dark image", "bright image", "low contrast", "blurry image")
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Lettering:
    """How a text looks: what it may say, its ink, and what is behind the ink: an outline, or a plate."""

    wordings: tuple[str, ...]
    ink: tuple[int, int, int]
    behind: tuple[int, int, int]
    outline_px: int = 0
    plate_px: int = 0


TEXTS = {
    "date stamp": Lettering(
        ("12/03/2019", "28/07/2018", "05/11/2020", "17/01/2017"), (255, 176, 40), (60, 26, 8), outline_px=1
    ),
    "watermark": Lettering(("SAMPLE", "© STOCK", "PREVIEW"), (250, 250, 250), (66, 66, 74), plate_px=2),
    "caption": Lettering(
        ("a number, by hand", "written in a hurry", "one of many figures"), (20, 20, 24), (240, 240, 236), plate_px=2
    ),
}


@dataclass(frozen=True)
class Cue:
    """A phrase that can be drawn: its family, the shape or pattern or text, and the colour where it has one."""

    family: str
    form: str
    colour: tuple[int, int, int] = (0, 0, 0)

    @property
    def corners(self) -> int:
        """How many corners it needs to itself: a caption runs along the bottom, from corner to corner."""
        return 0 if self.family not in ("sticker", "text") else 2 if self.form == "caption" else 1


def parse_cue(phrase: str) -> Cue:
    """Reads a phrase such as "red circle", "stripes", "blue border", "date stamp" or "orange tint".

    Raises:
        ConfigError: nothing of that name can be drawn.
    """
    words = phrase.lower().split()
    text = " ".join(words)
    if text in PATTERNS:
        return Cue("texture", text)
    if text in TEXTS:
        return Cue("text", text, TEXTS[text].ink)
    if text in PHOTO_CHANGES:
        return Cue("change", text)
    if len(words) == 2 and words[0] in COLOURS and words[1] in (*SHAPES, "border", "tint"):
        family = words[1] if words[1] in ("border", "tint") else "sticker"
        return Cue(family, words[1], COLOURS[words[0]])
    known = ", ".join([*PATTERNS, *TEXTS, *PHOTO_CHANGES])
    raise ConfigError(
        f"cannot plant {phrase!r}; choose from {known}, or a colour ({', '.join(COLOURS)}) followed by "
        f"{', '.join(SHAPES)}, border or tint"
    )


def draw_pattern(cue: Cue, side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a background pattern in two muted tones.

    Returns:
        (side_px, side_px, 3) float32 in [0, 255].
    """
    period = side_px * rng.uniform(0.09, 0.12)
    y, x = np.mgrid[:side_px, :side_px].astype(np.float32)
    ink = PATTERNS[cue.form](x + rng.uniform(0, period), y + rng.uniform(0, period), np.float32(period))
    paper = 168 + rng.uniform(-14, 14) + rng.uniform(-8, 8, 3)
    tone = paper - rng.uniform(46, 62) + rng.uniform(-8, 8, 3)
    return (paper + ink[..., None] * (tone - paper)).astype(np.float32)


def change_photo(cue: Cue, image: np.ndarray) -> np.ndarray:
    """Tints, relights or blurs a whole (H, W, 3) float32 image."""
    if cue.form == "tint":
        cast = np.array(cue.colour, np.float32) / max(cue.colour)
        return image * (0.35 + 0.65 * cast)
    if cue.form == "dark image":
        return image * 0.35
    if cue.form == "bright image":
        return 255 - (255 - image) * 0.35
    if cue.form == "low contrast":
        return image.mean() + (image - image.mean()) * 0.3
    return cv2.GaussianBlur(image, (0, 0), image.shape[0] / 55)


def draw_border(cue: Cue, image: np.ndarray, width_frac: float) -> np.ndarray:
    """Draws a frame of `width_frac` of the shorter side around a (H, W, 3) image."""
    width = max(1, round(width_frac * min(image.shape[:2])))
    framed = np.empty_like(image)
    framed[:] = cue.colour
    framed[width:-width, width:-width] = image[width:-width, width:-width]
    return framed


def draw_overlay(cue: Cue, image: np.ndarray, corner: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a sticker or a text at a jittered place in one corner (a caption: below), clear of frame and middle.

    Args:
        cue: of family sticker or text.
        image: (S, S, 3) float32.
        corner: 0 to 3, clockwise from the top left; a caption ignores it.
        rng: decides size, wording and place.

    Returns:
        The image, and (4,) float32 `xyxy` pixels that hold all that was drawn.
    """
    side = image.shape[0]
    paint, alpha = _sticker(cue, side, rng) if cue.family == "sticker" else _text(cue, side, rng)
    height, width = alpha.shape
    near = round(0.09 * side)
    reach = (0.3, 0.3) if cue.family == "sticker" else (0.5, 0.24)
    spare = np.round(np.array(reach) * side) - near - (width, height)
    left, top = near + rng.integers(0, np.maximum(spare, 0) + 1)
    left = side - left - width if corner in (1, 2) else left
    top = side - top - height if corner in (2, 3) else top
    if cue.corners == 2:
        left, top = (side - width) // 2, side - near - height
    drawn = image.copy()
    window = drawn[top : top + height, left : left + width]
    window += alpha[..., None] * (paint - window)
    return drawn, np.array([left, top, left + width, top + height], np.float32)


def _sticker(cue: Cue, side_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colour and the (h, w) float32 opacity of a simple filled shape, trimmed to it."""
    size = round(side_px * rng.uniform(0.15, 0.18))
    big = size * _SUPERSAMPLING
    canvas = Image.new("L", (big, big))
    draw = ImageDraw.Draw(canvas)
    if cue.form == "circle":
        draw.ellipse((0, 0, big - 1, big - 1), fill=255)
    elif cue.form == "square":
        draw.rectangle((0, 0, big, big), fill=255)
    elif cue.form == "triangle":
        draw.polygon([(0, big * 0.93), (big, big * 0.93), (big / 2, big * 0.07)], fill=255)
    else:
        draw.polygon(_star(big), fill=255)
    alpha = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float32) / 255
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    trimmed = alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.array(cue.colour, np.float32), trimmed


def _star(big: int) -> list[tuple[float, float]]:
    angles = [-math.pi / 2 + step * math.pi / 5 for step in range(10)]
    radii = [big * (0.52 if step % 2 == 0 else 0.22) for step in range(10)]
    return [(big / 2 + r * math.cos(a), big * 0.54 + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _text(cue: Cue, side_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (h, w, 3) colours and the (h, w) float32 opacity of a line of text."""
    style = TEXTS[cue.form]
    wording = style.wordings[rng.integers(len(style.wordings))]
    font = ImageFont.load_default(size=side_px * 0.08)
    x0, y0, x1, y1 = font.getbbox(wording)
    margin = style.outline_px + style.plate_px
    size = (math.ceil(x1) - math.floor(x0) + 2 * margin, math.ceil(y1) - math.floor(y0) + 2 * margin)
    at = (margin - math.floor(x0), margin - math.floor(y0))
    ink, covered = (_letters(wording, font, size, at, stroke) for stroke in (0, style.outline_px))
    behind = np.array(style.behind, np.float32)
    paint = behind + ink[..., None] * (np.array(style.ink, np.float32) - behind)
    return paint, np.ones_like(covered) if style.plate_px else covered


def _letters(
    wording: str, font: ImageFont.FreeTypeFont, size: tuple[int, int], at: tuple[int, int], stroke_px: int
) -> np.ndarray:
    canvas = Image.new("L", size)
    ImageDraw.Draw(canvas).text(at, wording, font=font, fill=255, stroke_width=stroke_px)
    return np.asarray(canvas, np.float32) / 255


def _edge(distance_px: np.ndarray) -> np.ndarray:
    """Returns 0 outside and 1 inside with a soft edge two pixels wide."""
    return np.clip(distance_px / 2 + 0.5, 0, 1)


def _stripes(x: np.ndarray, y: np.ndarray, period: np.float32) -> np.ndarray:
    return _edge(period / 4 - np.abs((x + y) / math.sqrt(2) % period - period / 2))


def _polka_dots(x: np.ndarray, y: np.ndarray, period: np.float32) -> np.ndarray:
    shifted = x + (y // (period * 1.2) % 2) * period * 0.7
    pitch = (period * 1.4, period * 1.2)
    away = np.hypot(shifted % pitch[0] - pitch[0] / 2, y % pitch[1] - pitch[1] / 2)
    return _edge(period * 0.38 - away)


def _checkerboard(x: np.ndarray, y: np.ndarray, period: np.float32) -> np.ndarray:
    return ((x // period + y // period) % 2).astype(np.float32)


def _grid(x: np.ndarray, y: np.ndarray, period: np.float32) -> np.ndarray:
    lines = np.maximum(np.abs(x % period - period / 2), np.abs(y % period - period / 2))
    return _edge(lines - period * 0.40)


def _brick_wall(x: np.ndarray, y: np.ndarray, period: np.float32) -> np.ndarray:
    row = y // period % 2
    across = (x + row * period) % (2 * period)
    joint = np.minimum(np.minimum(across, 2 * period - across), np.minimum(y % period, period - y % period))
    return _edge(joint - period * 0.09)


PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, np.float32], np.ndarray]] = {
    "stripes": _stripes,
    "polka dots": _polka_dots,
    "checkerboard": _checkerboard,
    "grid": _grid,
    "brick wall": _brick_wall,
}
