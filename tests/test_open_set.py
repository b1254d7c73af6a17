"""What open-set detectors share, and OWL-ViT against the model's own forward pass."""

import logging

import numpy as np
import pytest
import torch
from tiny_checkpoints import save_clip, save_owlv2, save_owlvit

from discovery.backends.detector import Phrase, load_detector
from discovery.backends.detector_owl import OwlDetector, OwlModel
from discovery.backends.open_set import Batches, to_regions
from discovery.config import ComputeConfig, DetectConfig
from discovery.errors import BackendError, ConfigError
from discovery.regions import Regions

COMPUTE = ComputeConfig(device="cpu", threads=1)


@pytest.fixture(scope="module")
def owlv2(tmp_path_factory):
    return str(save_owlv2(tmp_path_factory.mktemp("owlv2")))


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def boxes_of(*rows) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def found_in(scores, boxes, size=(100, 200), **settings) -> Regions:
    return to_regions(torch.tensor(scores)[None], boxes, [size], DetectConfig(**settings))


def test_boxes_are_clipped_and_those_in_the_padding_are_dropped():
    boxes = boxes_of([-20, 10, 50, 120], [10, 110, 90, 180], [150, 20, 260, 60])
    found = found_in([[0.9], [0.8], [0.7]], boxes)
    assert found.xyxy.tolist() == [[0, 10, 50, 100]]  # the third one's centre is at x = 205
    found = found_in([[0.9], [0.8], [0.7]], boxes, size=(200, 300))
    assert found.score.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_of_overlapping_boxes_the_best_stays_phrase_by_phrase():
    boxes = boxes_of([0, 0, 40, 40], [2, 2, 42, 42], [80, 40, 120, 80])
    found = found_in([[0.5, 0.9], [0.6, 0.3], [0.2, 0.01]], boxes)
    rows = sorted(zip(found.phrase.tolist(), found.score.round(2).tolist(), found.xyxy[:, 0].tolist(), strict=True))
    assert rows == [(0, pytest.approx(0.2), 80), (0, pytest.approx(0.6), 2), (1, pytest.approx(0.9), 0)]
    assert len(found_in([[0.5, 0.9], [0.6, 0.3], [0.2, 0.01]], boxes, nms_iou=0.95)) == 5


def test_a_box_that_lost_takes_no_other_with_it():
    row = boxes_of([0, 0, 40, 40], [16, 0, 56, 40], [32, 0, 72, 40])  # each overlaps its neighbour by 3/7
    found = found_in([[0.9], [0.8], [0.7]], row, nms_iou=0.4)
    assert sorted(found.xyxy[:, 0].tolist()) == [0, 32]


def test_no_more_boxes_per_phrase_than_asked_for():
    boxes = boxes_of(*([20 * i, 0, 20 * i + 10, 10] for i in range(9)))
    assert len(found_in([[0.9]] * 9, boxes, boxes_per_phrase=4)) == 4


class Greedy:
    """Work that fits only so many images into memory."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.tried = room, error, []

    def __call__(self, images):
        self.tried.append(len(images))
        if len(images) > self.room:
            raise self.error
        return Regions.build([(i, 0, [0, 0, 1 + image, 5], 0.5, None) for i, image in enumerate(images)])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()])
def test_a_batch_that_does_not_fit_is_halved_and_said(error, caplog):
    work, batches = Greedy(3, error), Batches(8)
    with caplog.at_level(logging.WARNING):
        found = batches.run(range(10), work)
    assert found.image.tolist() == list(range(10))
    assert found.xyxy[:, 2].tolist() == list(range(1, 11))
    assert work.tried == [8, 4, 2, 2, 2, 2, 2]
    assert "out of memory with 8 photos at once: going on with 4" in caplog.messages
    work.tried.clear()
    batches.run(range(2), work)
    assert work.tried == [2]


def test_one_photo_too_large_and_other_errors_are_not_hidden():
    with pytest.raises(BackendError, match="one photo does not fit into memory; lower"):
        Batches(4).run(range(3), Greedy(0, MemoryError()))
    with pytest.raises(RuntimeError, match="shape"):
        Batches(4).run(range(3), Greedy(0, RuntimeError("shape mismatch")))


@pytest.mark.parametrize(("name", "save"), [("owlv2", save_owlv2), ("owlvit", save_owlvit)])
def test_scores_and_boxes_are_those_of_the_models_own_forward(name, save, tmp_path):
    model = OwlModel(name, str(save(tmp_path)), COMPUTE)
    image, texts = photo(96, 96), ["a photo of a cliff", "a photo of a dog"]
    from transformers import AutoProcessor

    inputs = AutoProcessor.from_pretrained(tmp_path)(text=[texts], images=image, return_tensors="pt")
    with torch.inference_mode():
        expected = model.net(**inputs)
    features = model.features([image])
    scores = model.scores(features, model.embed_texts(texts))
    torch.testing.assert_close(scores, expected.logits.sigmoid(), atol=1e-5, rtol=1e-5)
    centre, extent = expected.pred_boxes.split(2, dim=-1)
    corners = torch.cat([centre - extent / 2, centre + extent / 2], dim=-1) * 96
    torch.testing.assert_close(model.boxes(features, [image]), corners, atol=1e-3, rtol=1e-5)


def test_a_wide_photo_is_seen_as_the_model_pads_it(owlv2):
    """OWLv2's own view of a photo at its own width: padded below to a square, boxes in units of the longer side."""
    model = OwlModel("owlv2", owlv2, COMPUTE)
    image = photo(48, 96)
    padded = np.zeros((96, 96, 3), np.uint8)
    padded[:48] = image
    torch.testing.assert_close(model.features([image]), model.features([padded]))
    squared = model.boxes(model.features([padded]), [padded])
    torch.testing.assert_close(model.boxes(model.features([image]), [image]), squared)


def test_a_photo_passes_the_vision_model_once_whatever_the_number_of_phrases(owlv2):
    detector = OwlDetector("owlv2", owlv2, DetectConfig(phrases_per_pass=16, images_per_pass=2), COMPUTE)
    passes = {"image": 0, "text": 0}
    core = detector._model._core
    core.vision_model.register_forward_hook(lambda *_: passes.update(image=passes["image"] + 1))
    core.text_model.register_forward_hook(lambda *_: passes.update(text=passes["text"] + 1))
    phrases = [Phrase(f"thing {i}", "object") for i in range(40)]
    images = [photo(40 + i, 60) for i in range(4)]
    first = detector.detect(images, phrases)
    assert passes == {"image": 2, "text": 3}
    detector.detect(images, phrases)
    assert passes == {"image": 4, "text": 3}
    at_once = OwlDetector("owlv2", owlv2, DetectConfig(), COMPUTE).detect(images, phrases)
    key = lambda found: sorted(zip(found.image, found.phrase, found.score.round(4), strict=True))  # noqa: E731
    assert key(first) == key(at_once)


def test_a_checkpoint_of_another_type_or_none_where_none_is_read_is_refused(tmp_path):
    with pytest.raises(BackendError, match="of type 'clip'; this backend reads owlv2"):
        load_detector(f"owlv2:{save_clip(tmp_path)}", DetectConfig(), COMPUTE)
    with pytest.raises(ConfigError, match=r"conse.* reads no checkpoint"):
        load_detector("conse:somewhere", DetectConfig(), COMPUTE)
    with pytest.raises(BackendError, match="google/owlv2-base-patch16-ensemble is not on this machine"):
        load_detector("owlv2", DetectConfig(), COMPUTE)


def test_a_prompt_must_have_room_for_the_phrase():
    from discovery.config import make_config

    with pytest.raises(ConfigError, match=r"detect\.prompt"):
        make_config({"dataset": {"root": "."}, "detect": {"prompt": "a photo"}})
