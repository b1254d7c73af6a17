"""Text found by RapidOCR: planted lines are found where they are and called what they are."""

import hashlib
import logging
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from discovery.backends import ocr
from discovery.backends.detector import Phrase
from discovery.backends.ocr import FLOOR, WEIGHTS_SHA256, TextDetector, check_weights
from discovery.config import ComputeConfig, DetectConfig
from discovery.errors import BackendError

PHRASES = [Phrase(t, "text") for t in ("text", "watermark", "caption", "date stamp", "url", "copyright notice")]


@pytest.fixture(scope="module")
def detector():
    pytest.importorskip("rapidocr_onnxruntime", reason="needs the extra 'offline'")
    return TextDetector(DetectConfig(), ComputeConfig())


def ground(rng, height=160, width=160):
    """A noisy grey ground with a dark ring on it, which is no text."""
    image = Image.fromarray((130 + rng.normal(0, 10, (height, width, 3))).clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(image).ellipse(
        [width * 0.3, height * 0.3, width * 0.65, height * 0.65], outline=(40, 40, 40), width=6
    )
    return np.array(image)


def write(image, text, size_px, at="bottom left", fill=(255, 255, 255)):
    """Writes a line into a corner, or in the middle; returns the photo and the line's xyxy."""
    canvas = Image.fromarray(image)
    drawn, font = ImageDraw.Draw(canvas), ImageFont.load_default(size_px)
    x0, y0, x1, y1 = drawn.textbbox((0, 0), text, font=font)
    x = {"left": 4, "right": canvas.width - 4 - (x1 - x0), "middle": (canvas.width - x1 + x0) / 2}[at.split()[1]]
    y = {"top": 4, "bottom": canvas.height - 4 - (y1 - y0), "centre": (canvas.height - y1 + y0) / 2}[at.split()[0]]
    drawn.text((x - x0, y - y0), text, font=font, fill=fill)
    return np.array(canvas), np.array([x, y, x + x1 - x0, y + y1 - y0])


def present(detector, image):
    found = detector.detect([image], PHRASES)
    return {PHRASES[p].text for p, score in zip(found.phrase, found.score, strict=True) if score >= 0.5}


def test_sees_its_phrases_of_kind_text_only(detector):
    assert all(detector.sees(phrase) for phrase in PHRASES)
    assert detector.sees(Phrase("Watermark", "text"))
    assert not detector.sees(Phrase("watermark", "object"))
    assert not detector.sees(Phrase("jersey number", "text"))


@pytest.mark.parametrize("size_px", [10, 12, 14])
def test_finds_small_planted_text_where_it_is(detector, size_px):
    rng = np.random.default_rng(size_px)
    corners = ("top left", "top right", "bottom left", "bottom right")
    hits = []
    for k, text in enumerate(("STOCK", "Photo 27", "sample text", "City Park", "ab-foto.com")):
        image, truth = write(ground(rng), text, size_px, corners[k % 4])
        found = detector.detect([image], [Phrase("text", "text")])
        low, high = np.maximum(found.xyxy[:, :2], truth[:2]), np.minimum(found.xyxy[:, 2:], truth[2:])
        covered = np.clip(high - low, 0, None).prod(axis=1) / (truth[2:] - truth[:2]).prod()
        hits.append(bool((covered > 0.6).any()))
    assert np.mean(hits) >= 0.9


def test_a_photo_without_text_has_none(detector):
    rng = np.random.default_rng(0)
    assert len(detector.detect([ground(rng), ground(rng, 300, 400)], PHRASES)) == 0


@pytest.mark.parametrize(
    ("text", "at", "expected", "refused"),
    [
        ("2021-03-14", "bottom right", {"text", "date stamp"}, {"url", "copyright notice", "watermark"}),
        ("14 MAR 2004", "bottom right", {"text", "date stamp"}, {"url"}),
        ("www.foto-park.net", "bottom left", {"text", "url", "watermark"}, {"date stamp"}),
        ("(c) Ann Lee", "top left", {"text", "copyright notice", "watermark"}, {"date stamp", "url"}),
        ("SAMPLE", "centre middle", {"text", "watermark"}, {"caption", "date stamp"}),
        ("BAKERY", "centre middle", {"text"}, {"watermark", "caption", "date stamp", "url"}),
        ("a boat on the quiet lake", "bottom middle", {"text", "caption"}, {"date stamp", "url"}),
    ],
)
def test_a_line_is_called_what_it_is(detector, text, at, expected, refused):
    image, _ = write(ground(np.random.default_rng(1), 240, 240), text, 16, at)
    seen = present(detector, image)
    assert expected <= seen
    assert not refused & seen


@pytest.mark.parametrize(
    ("text", "is_date"),
    [
        ("12/08/2019", True),
        ("'98 12 25", True),
        ("Mar 3, 2010", True),
        ("2021:03:14 12:00", True),
        ("555-1234", False),
        ("1.2.3", False),
        ("62428-1759", False),
        ("May 12", False),
    ],
)
def test_dates_are_told_from_other_figures(text, is_date):
    box = np.array([0, 0, 50, 10], np.float32)
    line = ocr.Line(xyxy=box, text=text, confidence=1.0, tilt_deg=0.0, place=box / 100)
    assert (ocr._date(line) >= 0.5) == is_date


def test_boxes_stay_in_photos_of_any_size(detector):
    rng = np.random.default_rng(2)
    photos = [write(ground(rng, *size), "SAMPLE 12", 14, "bottom right")[0] for size in ((90, 300), (700, 500))]
    photos += [np.zeros((1, 1, 3), np.uint8), np.zeros((4, 400, 3), np.uint8)]
    found = detector.detect(photos, PHRASES)
    assert {0, 1} <= set(found.image.tolist()) <= {0, 1}
    for i, box in zip(found.image, found.xyxy, strict=True):
        height, width = photos[i].shape[:2]
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height
    assert found.score.min() >= FLOOR


def test_lines_below_the_configured_confidence_are_not_written():
    pytest.importorskip("rapidocr_onnxruntime", reason="needs the extra 'offline'")
    strict = TextDetector(DetectConfig(text_min_score=1.0), ComputeConfig(threads=1))
    image, _ = write(ground(np.random.default_rng(3)), "sample text", 10, fill=(160, 160, 160))
    assert len(strict.detect([image], PHRASES)) == 0


def test_it_is_silent(detector, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        TextDetector(DetectConfig(), ComputeConfig()).detect([np.zeros((32, 32, 3), np.uint8)], PHRASES)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install '\.\[offline\]'"):
        TextDetector(DetectConfig(), ComputeConfig())


def test_changed_or_missing_weights_are_refused(tmp_path, monkeypatch):
    package = types.ModuleType("rapidocr_onnxruntime")
    package.__file__ = str(tmp_path / "__init__.py")
    with pytest.raises(BackendError, match="has no models/"):
        check_weights(package)
    (tmp_path / "models").mkdir()
    for name in WEIGHTS_SHA256:
        (tmp_path / "models" / name).write_bytes(name.encode())
    with pytest.raises(BackendError, match="sha256"):
        check_weights(package)
    right = {name: hashlib.sha256(name.encode()).hexdigest() for name in WEIGHTS_SHA256}
    monkeypatch.setattr(ocr, "WEIGHTS_SHA256", right)
    check_weights(package)
