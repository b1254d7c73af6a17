"""YOLO-World and YOLOE of Ultralytics, with text embeddings from CLIP."""

import sys

import numpy as np
import pytest
import torch
from tiny_checkpoints import save_clip, save_yolo

from discovery.backends.checkpoint import read_choice
from discovery.backends.class_texts import _clip_package, load_class_texts
from discovery.backends.detector import Phrase
from discovery.backends.detector_yolo import YoloDetector, _with_masks
from discovery.backends.open_set import Chosen
from discovery.config import ComputeConfig, DetectConfig
from discovery.errors import BackendError, ConfigError
from discovery.regions import Regions, decode_rle, draw_mask

pytest.importorskip("ultralytics", reason="the extra yolo is not installed")
COMPUTE = ComputeConfig(device="cpu", threads=1)
PHRASES = [Phrase(f"thing {i}", "object") for i in range(5)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return f"clip:{save_clip(tmp_path_factory.mktemp('clip'), width=512)}"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    kinds = {"yolo_world": "yolov8n-worldv2.yaml", "yoloe": "yoloe-11n-seg.yaml", "yoloe26": "yoloe-26n.yaml"}
    return {name: str(save_yolo(tmp_path_factory.mktemp(name), kind=kind)) for name, kind in kinds.items()}


def loaded(name: str, files, clip, **settings) -> YoloDetector:
    config = DetectConfig(text_model=clip, min_score=0.0, boxes_per_phrase=3, **settings)
    return YoloDetector(name.removesuffix("26"), files[name], config, COMPUTE)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def rows(found) -> list:
    return sorted(zip(found.image.tolist(), found.phrase.tolist(), found.score.round(4).tolist(), strict=True))


@pytest.mark.parametrize("name", ["yoloe", "yoloe26"])
def test_a_yoloe_is_asked_in_chunks_and_sees_a_photo_once(name, files, clip):
    once = loaded(name, files, clip).detect([photo(80, 60)], PHRASES)
    detector = loaded(name, files, clip, phrases_per_pass=2)
    passes = []
    detector._net.model[0].register_forward_hook(lambda *_: passes.append(1))
    assert rows(detector.detect([photo(80, 60)], PHRASES)) == rows(once)
    assert len(passes) == 1
    assert set(once.phrase) == set(range(5))


def test_the_score_of_a_box_is_the_models_own(files, clip):
    detector = loaded("yolo_world", files, clip)
    image = photo(96, 96)
    found = detector.detect([image], PHRASES)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        texts = load_class_texts(read_choice(clip), COMPUTE)([phrase.text for phrase in PHRASES])[None]
        raw = detector._net(pixels, txt_feats=texts)[0][0]
    best = raw[4:].max(dim=1).values.numpy()
    np.testing.assert_allclose([found.score[found.phrase == p].max() for p in range(5)], best, rtol=1e-4)


def test_a_checkpoint_that_segments_draws_masks_of_the_whole_photo(files, clip):
    found = loaded("yoloe", files, clip).detect([photo(30, 30), photo(60, 120)], PHRASES)
    masks = [(i, decode_rle(rle)) for i, rle in zip(found.image, found.mask_rle, strict=True) if rle]
    assert {i for i, _ in masks} == {0, 1}
    assert all(mask.shape == ((96, 96), (48, 96))[i] for i, mask in masks)


def test_a_mask_is_its_prototypes_mixed_and_cut_to_its_box():
    """A photo of 60×120 seen as 48×96: the prototype is positive to the right of the middle."""
    half = torch.linspace(-1, 1, 24).repeat(24, 1)
    protos = torch.stack([half, torch.full((24, 24), 9.0)])[None]
    found = Regions.build([(0, 0, [20, 10, 100, 50], 0.9, None), (0, 1, [0, 0, 40, 60], 0.8, None)])
    coefficients = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    drawn = _with_masks(Chosen(found, np.array([1, 2]), [(60, 120)]), coefficients, protos, [(48, 96)])
    mask = draw_mask(drawn.xyxy[0], drawn.mask_rle[0], (60, 120), (60, 120))
    ys, xs = np.nonzero(mask)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (60, 99, 10, 49)
    assert draw_mask(drawn.xyxy[1], drawn.mask_rle[1], (60, 120), (60, 120)).sum() == 40 * 60


def test_what_does_not_fit_together_is_one_line(files, clip, tmp_path):
    with pytest.raises(BackendError, match=r"no file at nowhere\.pt"):
        YoloDetector("yoloe", "nowhere.pt", DetectConfig(text_model=clip), COMPUTE)
    with pytest.raises(BackendError, match="of type WorldModel; yoloe reads YOLOEModel"):
        YoloDetector("yoloe", files["yolo_world"], DetectConfig(text_model=clip), COMPUTE)
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(BackendError, match="cannot load"):
        YoloDetector("yolo_world", str(tmp_path / "bad.pt"), DetectConfig(text_model=clip), COMPUTE)
    narrow = DetectConfig(text_model=f"clip:{save_clip(tmp_path / 'clip')}")
    with pytest.raises(BackendError, match="32 numbers per phrase and this YOLO reads 512"):
        YoloDetector("yolo_world", files["yolo_world"], narrow, COMPUTE).detect([photo(9, 9)], PHRASES)
    with pytest.raises(BackendError, match=r"no file at mobileclip_blt\.ts"):
        YoloDetector("yoloe", files["yoloe"], DetectConfig(), COMPUTE)


@pytest.mark.parametrize("setting", ["bert:folder", "clip"])
def test_a_text_model_is_named_with_its_checkpoint(setting):
    with pytest.raises(ConfigError, match=r"must be NAME:CHECKPOINT with a NAME of clip, openai_clip, mobileclip"):
        load_class_texts(read_choice(setting), COMPUTE)


def test_the_packaged_clip_and_a_torchscript_file_embed_texts(tmp_path):
    clip = _clip_package()
    assert getattr(sys.modules.get("pkg_resources"), "__doc__", None) != "a stand-in for clip's import"
    torch.manual_seed(0)
    tiny = clip.model.CLIP(
        embed_dim=16,
        image_resolution=32,
        vision_layers=1,
        vision_width=64,
        vision_patch_size=16,
        context_length=77,
        vocab_size=49408,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=1,
    )
    torch.save(tiny.state_dict(), tmp_path / "clip.pt")
    texts = ["a cliff", "🏔 {} 'quoted'", "very " * 99]
    found = load_class_texts(read_choice(f"openai_clip:{tmp_path}/clip.pt"), COMPUTE)(texts)
    assert found.shape == (3, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    with torch.inference_mode():
        expected = tiny.eval().encode_text(clip.tokenize(texts, truncate=True))
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1), atol=1e-3, rtol=1e-3)
