"""Grounding DINO: phrases packed into texts, the backbone once per photo, scores of the model's own forward."""

import numpy as np
import pytest
import torch
from tiny_checkpoints import save_grounding_dino

from discovery.backends.detector import Phrase
from discovery.backends.detector_grounding import GroundingDetector
from discovery.config import ComputeConfig, DetectConfig
from discovery.errors import BackendError

COMPUTE = ComputeConfig(device="cpu", threads=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(save_grounding_dino(tmp_path_factory.mktemp("grounding")))


@pytest.fixture(scope="module")
def detector(checkpoint):
    return GroundingDetector("grounding_dino", checkpoint, DetectConfig(min_score=0.0, images_per_pass=2), COMPUTE)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def words(detector, texts) -> list[list[str]]:
    return [[" ".join(detector._tokens.convert_ids_to_tokens(phrase)) for phrase in text] for text in texts]


def test_phrases_are_packed_into_as_few_texts_as_hold_them(detector):
    texts = detector.texts(["red circle", "cliff", "cat"] * 8)  # 7 tokens for three with their dots, room for 30
    assert [len(text) for text in texts] == [12, 12]
    assert words(detector, texts)[0][:3] == ["red circle", "cliff", "cat"]
    assert all(sum(len(phrase) + 1 for phrase in text) <= 30 for text in texts)


def test_a_phrase_cannot_end_itself_or_overflow_its_text(detector):
    texts = detector.texts(["red. Ignore? the", "cat " * 99, "", "🏔"])
    assert words(detector, texts[:1])[0][0].startswith("red ")
    assert not {101, 102, 1012, 1029} & {token for text in texts for phrase in text for token in phrase}
    assert max(len(phrase) for text in texts for phrase in text) == 29
    assert words(detector, texts)[-1][-2:] == ["[UNK]", "[UNK]"]


def test_scores_and_boxes_are_those_of_the_models_own_forward(checkpoint, detector):
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    image = photo(80, 64)
    inputs = AutoProcessor.from_pretrained(checkpoint)(text="red circle . cliff .", images=image, return_tensors="pt")
    net = AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint)
    with torch.inference_mode():
        expected = net(**inputs)
        probs = expected.logits.sigmoid()
        scores, boxes = detector._answer(
            inputs["pixel_values"], inputs["pixel_mask"], detector.texts(["Red circle", "cliff"])[0]
        )
    assert inputs["input_ids"].shape == (1, 7)
    torch.testing.assert_close(scores[..., 0], probs[..., 1:3].mean(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores[..., 1], probs[..., 4], atol=1e-5, rtol=1e-4)
    centre, extent = expected.pred_boxes.split(2, dim=-1)
    torch.testing.assert_close(boxes, torch.cat([centre - extent / 2, centre + extent / 2], -1), atol=1e-5, rtol=1e-4)


def test_the_backbone_sees_a_photo_once_and_every_text_is_answered(detector):
    passes = {"backbone": 0, "text": 0}
    hooks = [
        detector._backbone.backbone.register_forward_hook(lambda *_: passes.update(backbone=passes["backbone"] + 1)),
        detector._net.model.text_backbone.register_forward_hook(lambda *_: passes.update(text=passes["text"] + 1)),
    ]
    found = detector.detect([photo(40, 60)] * 4, [Phrase(f"cat {i}", "object") for i in range(25)])
    for hook in hooks:
        hook.remove()
    assert passes == {"backbone": 2, "text": 2 * 4}  # two batches; "cat 7 ." has three tokens, "cat 1 ##7 ." four
    assert set(found.phrase) == set(range(25))
    assert detector._backbone._features is None


def test_photos_of_other_sizes_in_the_batch_do_not_move_the_boxes(detector):
    wide, phrases = photo(48, 96), [Phrase("cat", "object")]
    alone = detector.detect([wide], phrases)
    both = detector.detect([photo(90, 60), wide, photo(90, 60), wide], phrases)
    for i in (1, 3):
        np.testing.assert_allclose(both.xyxy[both.image == i], alone.xyxy, atol=1e-3)


def test_one_family_does_not_pass_for_the_other(checkpoint):
    with pytest.raises(BackendError, match="of type 'grounding-dino'; this backend reads mm-grounding-dino"):
        GroundingDetector("mm_grounding_dino", checkpoint, DetectConfig(), COMPUTE)
