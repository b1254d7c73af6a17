"""Detection by pictures: OWLv2's own mode, and windows in the space of an encoder."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoints import save_owlv2

from discovery.backends.detector import Phrase
from discovery.backends.detector_exemplar import ExemplarDetector, read_exemplars
from discovery.config import ComputeConfig, DetectConfig
from discovery.errors import DataError

COMPUTE = ComputeConfig(device="cpu", threads=1)


def logo(side: int) -> np.ndarray:
    """A ring of red and white sectors: no photo has one by chance."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    sector = (np.arctan2(y, x) / np.pi * 4).astype(int) % 2 == 0
    picture = np.where(sector[..., None], np.array([220, 20, 30]), np.array([250, 250, 250]))
    picture[np.hypot(x, y) > side / 2] = 128
    return picture.astype(np.uint8)


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "Our Logo").mkdir()
    Image.fromarray(logo(64)).save(tmp_path / "Our Logo" / "1.png")
    Image.fromarray(logo(48)).save(tmp_path / "Our Logo" / "2.png")
    return tmp_path


def test_what_looks_like_the_pictures_scores_above_what_does_not(pictures):
    detector = ExemplarDetector(None, DetectConfig(exemplars=str(pictures), min_score=0.0), COMPUTE)
    rng = np.random.default_rng(0)
    plain = [np.repeat(rng.integers(60, 190, (224, 1, 3), dtype=np.uint8), 224, axis=1) for _ in range(4)]
    marked = [image.copy() for image in plain]
    for image in marked:
        image[130:190, 20:80] = logo(60)
    found = detector.detect([*plain, *marked], [Phrase("our logo", "object")])
    best = [found.score[found.image == i].max() for i in range(8)]
    assert min(best[4:]) > max(best[:4])
    for i in range(4, 8):
        of_image = np.flatnonzero(found.image == i)
        box = found.xyxy[of_image[found.score[of_image].argmax()]]
        centre = (box[:2] + box[2:]) / 2  # the windows are coarse: near the logo, not around it
        assert (np.abs(centre - [50, 160]) < 40).all()


def test_owlv2_is_asked_as_in_its_own_image_guided_mode(pictures, tmp_path_factory):
    checkpoint = save_owlv2(tmp_path_factory.mktemp("owlv2"))
    config = DetectConfig(exemplars=str(pictures), min_score=0.0, nms_iou=1.0, boxes_per_phrase=64)
    detector = ExemplarDetector(f"owlv2:{checkpoint}", config, COMPUTE)
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    found = detector.detect([image], [Phrase("our logo", "object")])
    model = detector._finder._model
    views = [
        model._views(images=[picture], return_tensors="pt")["pixel_values"] for picture in (image, logo(64), logo(48))
    ]
    with torch.inference_mode():
        answers = [
            model.net.image_guided_detection(pixel_values=views[0], query_pixel_values=view) for view in views[1:]
        ]
    expected = torch.stack([answer.logits[0, :, 0].sigmoid() for answer in answers]).amax(0)
    np.testing.assert_allclose(found.score.max(), expected.max(), atol=1e-2)


def test_a_detector_by_pictures_sees_its_folders_alone(pictures):
    detector = ExemplarDetector(None, DetectConfig(exemplars=str(pictures)), COMPUTE)
    assert detector.sees(Phrase("our logo", "text"))
    assert not detector.sees(Phrase("logo", "object"))


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(DataError, match="no folder of exemplars at None; set"):
        read_exemplars(None)
    (tmp_path / "ruler").mkdir()
    with pytest.raises(DataError, match="no pictures in ruler"):
        read_exemplars(str(tmp_path))
