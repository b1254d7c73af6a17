"""Images and kinds of overlaid text → boxes of lines: one pass of RapidOCR per image, then a rule per phrase."""

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from discovery.backends.detector import Phrase
from discovery.backends.weights import check_sha256
from discovery.config import ComputeConfig, DetectConfig
from discovery.errors import BackendError
from discovery.regions import Regions

WEIGHTS_SHA256 = {
    "ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
}
LONG_SIDE_PX = 640
"""Longer side at which text is looked for: letters of 2.5 % of the longer side and more are found."""
MAX_MAGNIFICATION = 3.0
FLOOR = 0.2
"""Scores below are not written."""

_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DAY, _YEAR = r"[0-3]?\d", r"((19|20)\d\d|['’]?\d\d)"
_DATE = re.compile(
    rf"\b(19|20)\d\d\s?[-/.:年]\s?[01]?\d\s?[-/.:月]\s?{_DAY}(?!\d)|\b{_DAY}\s?[-/.]\s?[0-3]?\d\s?[-/.]\s?{_YEAR}(?!\d)"
    rf"|['’]\d\d\s+[01]?\d\s+{_DAY}\b|\b{_DAY}\s?{_MONTH}[\s,.]*{_YEAR}\b|\b{_MONTH}\s?{_DAY}[\s,.]+{_YEAR}\b",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\b[0-2]?\d:[0-5]\d(:[0-5]\d)?\s?([ap]\.?m\b\.?)?", re.IGNORECASE)
_URL = re.compile(
    r"https?[:/]|www\s?\.|\b[a-z0-9][a-z0-9-]{2,}\s?\.\s?(com|org|net|edu|gov|info|co\.[a-z]{2}|de|fr|uk|ru|nl|it|jp)\b",
    re.IGNORECASE,
)
# The reader has no sign for ©: it gives @, ③, C or O.
_COPYRIGHT = re.compile(
    r"[©®™]|^\s*[@③]\s?\w|\(c\)\s?\w|^\s*(?-i:C\s[A-Z])|(^|\s)[@③CO]\s?(19|20)\d\d\b|copyright|all rights? reserved",
    re.IGNORECASE,
)
_STOCK = re.compile(
    r"stock\b|getty|alamy|dreamstime|123rf|depositphotos|corbis|flickr|fotolia|\b(preview|sample|proof|watermark)\b"
    r"|photo(graphy|s)?\s?(by\b|:)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Line:
    """A line of text as read.

    Attributes:
        xyxy: (4,) pixels of the image.
        text: what it says.
        confidence: the reader's own, [0, 1].
        tilt_deg: angle of its baseline.
        place: (4,) the box as shares of the image's width and height.
    """

    xyxy: np.ndarray
    text: str
    confidence: float
    tilt_deg: float
    place: np.ndarray


class TextDetector:
    """Finds text; a phrase's score is the reader's confidence times how well the line fits the phrase.

    text             any line
    url              something like www.name or name.com
    copyright notice © or the words
    date stamp       a date in figures or with a month's name; a clock time alone fits by 0.6; it is no other phrase
    watermark        a copyright notice, an address or a stock agency's word, anywhere; any other level line of at most
                     30 signs and 13 % of the image's height within the outer quarter of the image fits by 0.7
                     (a street sign there fits too: what a line was printed on cannot be told)
    caption          a level line over at least 40 % of the width in the upper or lower fifth; fits fully from 60 %
    """

    def __init__(self, config: DetectConfig, compute: ComputeConfig) -> None:
        self._min_confidence = config.text_min_score
        self._read = _load(config, compute)

    def sees(self, phrase: Phrase) -> bool:
        return phrase.kind == "text" and phrase.text.lower() in _RULES

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Phrase]) -> Regions:
        rules = [_RULES[phrase.text.lower()] for phrase in phrases]
        rows = []
        for i, image in enumerate(images if rules else ()):
            for line in self._lines(image):
                scores = [line.confidence * rule(line) for rule in rules]
                rows += [(i, p, line.xyxy, score, None) for p, score in enumerate(scores) if score >= FLOOR]
        return Regions.build(rows)

    def _lines(self, image: np.ndarray) -> list[Line]:
        """Reads the lines of one (H, W, 3) uint8 RGB image that hold two letters or figures and are sure enough."""
        height, width = image.shape[:2]
        scale = min(LONG_SIDE_PX / max(height, width), MAX_MAGNIFICATION)
        # Sides in steps of 32 keep the network from resizing once more.
        size = (max(32, round(width * scale / 32) * 32), max(32, round(height * scale / 32) * 32))
        shown = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
        found, _ = self._read(np.ascontiguousarray(shown[..., ::-1]), use_cls=False)
        factor = np.array([width / size[0], height / size[1]])
        lines = [
            _line(np.array(quad) * factor, text, float(score), (height, width)) for quad, text, score in found or ()
        ]
        return [
            line
            for line in lines
            if line.confidence >= self._min_confidence
            and sum(letter.isalnum() for letter in line.text) >= 2
            and (line.xyxy[2:] > line.xyxy[:2]).all()
        ]


def _load(config: DetectConfig, compute: ComputeConfig) -> Callable:
    try:
        import rapidocr_onnxruntime
    except ImportError as error:
        raise BackendError("package 'rapidocr_onnxruntime' is missing; install it: pip install '.[offline]'") from error
    check_weights(rapidocr_onnxruntime)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    reader = rapidocr_onnxruntime.RapidOCR(
        det_limit_side_len=32,
        det_limit_type="min",
        text_score=config.text_min_score,
        intra_op_num_threads=min(compute.threads or cores, cores),
        inter_op_num_threads=1,
    )
    for name in ("RapidOCR", "OrtInferSession"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return reader


def check_weights(package: ModuleType) -> None:
    """Raises BackendError when a model file of the package is missing or not the recorded one."""
    folder = Path(package.__file__ or "").parent / "models"
    for name, expected in WEIGHTS_SHA256.items():
        if not (folder / name).is_file():
            raise BackendError(f"{package.__name__} has no models/{name}; pip install 'rapidocr-onnxruntime==1.4.4'")
        check_sha256(folder / name, expected)


def _line(quad: np.ndarray, text: str, confidence: float, shape: tuple[int, int]) -> Line:
    height, width = shape
    low, high = quad.min(axis=0).clip(0), np.minimum(quad.max(axis=0), (width, height))
    xyxy = np.concatenate([low, high]).astype(np.float32)
    across = quad[1] - quad[0]
    tilt = float(np.degrees(np.arctan2(across[1], across[0])))
    return Line(xyxy, text, confidence, tilt, xyxy / np.array([width, height, width, height]))


def _is_level(line: Line) -> bool:
    return abs(line.tilt_deg) < 4


def _watermark(line: Line) -> float:
    if _date(line):
        return 0.0
    if any(pattern.search(line.text) for pattern in (_COPYRIGHT, _URL, _STOCK)):
        return 1.0
    x0, y0, x1, y1 = line.place
    outer = min(x1, y1) <= 0.25 or max(x0, y0) >= 0.75
    return 0.7 if outer and _is_level(line) and len(line.text) <= 30 and y1 - y0 <= 0.13 else 0.0


def _caption(line: Line) -> float:
    x0, y0, x1, y1 = line.place
    middle = (y0 + y1) / 2
    if not _is_level(line) or 0.2 < middle < 0.8 or _date(line):
        return 0.0
    return float(np.clip((x1 - x0 - 0.2) / 0.4, 0, 1)) if x1 - x0 >= 0.4 else 0.0


def _date(line: Line) -> float:
    return 1.0 if _DATE.search(line.text) else 0.6 if _CLOCK.fullmatch(line.text.strip()) else 0.0


_RULES: dict[str, Callable[[Line], float]] = {
    "text": lambda line: 1.0,
    "url": lambda line: float(bool(_URL.search(line.text))),
    "copyright notice": lambda line: float(bool(_COPYRIGHT.search(line.text))),
    "date stamp": _date,
    "watermark": _watermark,
    "caption": _caption,
}
_RULES |= {"timestamp": _date, "web address": _RULES["url"], "writing": _RULES["text"]}
