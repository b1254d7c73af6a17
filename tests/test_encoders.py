"""One contract for every encoder and every text encoder, and what is special to those that read a checkpoint."""

import time

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoints import save_clip, save_dinov2, save_owlv2, save_siglip
from transformers import AutoImageProcessor, AutoModel

from discovery.backends.encoder import ENCODERS, Embedded, load_encoder
from discovery.backends.preprocessing import Preprocessing
from discovery.backends.text import TEXTS, load_text
from discovery.backends.views import CentreCrop
from discovery.config import ComputeConfig
from discovery.errors import BackendError, ConfigError
from discovery.images import resize

COMPUTE = ComputeConfig(device="cpu", batch_size=4)
SAVERS = {"clip": save_clip, "siglip": save_siglip, "dinov2": save_dinov2}
NONE = np.empty((0, 4), np.float32)


def images(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (48 + 16 * i, 80, 3), dtype=np.uint8) for i in range(n)]


@pytest.fixture(scope="module")
def setting_of(tmp_path_factory):
    """Returns a backend's setting; its checkpoint is made when it reads one."""
    made: dict[str, str] = {}

    def setting(name: str) -> str:
        if name in SAVERS and name not in made:
            made[name] = f"{name}:{SAVERS[name](tmp_path_factory.mktemp(name))}"
        return made.get(name, name)

    return setting


@pytest.fixture(params=sorted(ENCODERS), scope="module")
def encoder(request, setting_of):
    return load_encoder(setting_of(request.param), COMPUTE)


def test_every_encoder_gives_one_unit_vector_per_box_in_order(encoder):
    shown = images(2)
    boxes = [np.array([[0, 0, 40, 40], [10, 10, 80, 48]], np.float32), np.array([[5, 5, 30, 60]], np.float32)]
    found = encoder.embed(shown, boxes)
    assert found.embedding.shape == (3, encoder.width)
    assert found.embedding.dtype == found.norm.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, atol=1e-4)
    last = encoder.embed(shown[1:], boxes[1:])
    np.testing.assert_allclose(last.embedding[0], found.embedding[2], atol=1e-4)
    np.testing.assert_array_equal(encoder.embed(shown, boxes).embedding, found.embedding)
    assert np.abs(found.embedding[0] - found.embedding[1]).max() > 1e-3


def test_every_encoder_takes_nothing_no_boxes_and_odd_sizes(encoder):
    assert encoder.embed([], []).embedding.shape == (0, encoder.width)
    assert encoder.embed(images(2), [NONE, NONE]).embedding.shape == (0, encoder.width)
    assert encoder.pooled(np.empty((0, encoder.input_px, encoder.input_px, 3), np.uint8)).shape == (0, encoder.width)
    for shape in ((1, 1, 3), (3, 700, 3), (700, 3, 3)):
        image = np.full(shape, 90, np.uint8)
        whole = np.array([[0, 0, shape[1], shape[0]]], np.float32)
        assert np.isfinite(encoder.embed([image], [whole]).embedding).all()
        assert np.isfinite(encoder.pooled(encoder.view(image)[None])).all()


def test_every_encoder_sees_a_whole_image_as_its_field_says(encoder):
    view = encoder.view(images(1)[0])
    assert view.dtype == np.uint8
    assert min(view.shape[:2]) == encoder.input_px
    image = np.zeros((60, 100, 3), np.uint8)
    x0, y0, x1, y1 = encoder.field(60, 100)
    assert 0 <= x0 < x1 <= 100
    assert 0 <= y0 < y1 <= 60
    image[:, round((x0 + x1) / 2) :] = 255
    assert encoder.view(image).mean() == pytest.approx(127, abs=12)
    pooled = encoder.pooled(np.stack([view, encoder.view(image)]))
    assert pooled.shape == (2, encoder.width)
    np.testing.assert_allclose(encoder.pooled(view[None]), pooled[:1], atol=1e-4, rtol=1e-4)


def test_every_encoder_scores_phrases_or_says_what_does(encoder):
    one = Embedded(np.eye(3, encoder.width, dtype=np.float32), np.ones(3, np.float32))
    if not encoder.speaks:
        with pytest.raises(BackendError, match=r"embed\.namer"):
            encoder.scores(one, ["cliff"])
        return
    scores = encoder.scores(one, ["cliff", 'a "quoted" 🏔'])
    assert scores.shape == (3, 2)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(encoder.scores(one, ['a "quoted" 🏔', "cliff"]), scores[:, ::-1], atol=1e-4)


def test_a_box_of_everything_is_near_the_pooled_image_where_pooling_is_the_mean():
    encoder, image = load_encoder("efficientnet_lite0", COMPUTE), images(1)[0]
    whole = encoder.embed([image], [np.array([[0, 0, 80, 48]], np.float32)])
    pooled = encoder.pooled(resize(image, 224, 224)[None])[0]
    assert whole.embedding[0] @ (pooled / np.linalg.norm(pooled)) > 0.9


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_a_box_of_one_patch_holds_that_patch(name, setting_of):
    setting = setting_of(name)
    encoder, model = load_encoder(setting, COMPUTE), AutoModel.from_pretrained(setting.partition(":")[2]).eval()
    processor = AutoImageProcessor.from_pretrained(setting.partition(":")[2], do_resize=False, do_center_crop=False)
    image = resize(images(1)[0], 64, 64)  # four by four patches
    with torch.inference_mode():
        pixels = processor(images=Image.fromarray(image), return_tensors="pt").pixel_values
        vision = model.vision_model if name == "clip" else model
        tokens = vision(pixel_values=pixels).last_hidden_state[0, 1:].reshape(4, 4, -1)
        # A region's corners lie between the centres of the patches: the middle of two by two is their mean.
        wanted = tokens[1:3, 1:3].mean(dim=(0, 1))
        if name == "clip":
            wanted = model.visual_projection(vision.post_layernorm(wanted))
    found = encoder.embed([image], [np.array([[24, 24, 40, 40]], np.float32)])
    np.testing.assert_allclose(found.embedding[0] * found.norm[0], wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", sorted(SAVERS))
def test_what_the_network_gets_is_what_its_own_processor_makes(name, setting_of):
    folder = setting_of(name).partition(":")[2]
    processor = AutoImageProcessor.from_pretrained(folder)
    sight = Preprocessing(processor, folder)
    for image in [*images(2), np.full((3, 700, 3), 90, np.uint8)]:
        wanted = processor(images=Image.fromarray(image), return_tensors="pt").pixel_values
        torch.testing.assert_close(sight.tensor([sight.view(image)], torch.device("cpu")), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"size": {"height": 64, "width": 64}, "do_center_crop": False}, [0, 0, 360, 240]),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}, [60, 0, 300, 240]),
        ({"size": {"shortest_edge": 128}, "crop_size": {"height": 64, "width": 64}}, [120, 60, 240, 180]),
        ({"size": {"height": 128, "width": 128}, "crop_size": {"height": 64, "width": 64}}, [90, 60, 270, 180]),
    ],
)
def test_a_field_is_measured_whatever_the_processor_does(options, field):
    from transformers import CLIPImageProcessor

    sight = Preprocessing(CLIPImageProcessor(**options), "this one")
    np.testing.assert_allclose(sight.field(240, 360), field, atol=1)


def test_channels_that_are_turned_round_are_measured_too():
    from transformers import MobileViTImageProcessor

    processor = MobileViTImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    sight, image = Preprocessing(processor, "this one"), images(1)[0]
    wanted = processor(images=Image.fromarray(image), return_tensors="pt").pixel_values
    torch.testing.assert_close(sight.tensor([sight.view(image)], torch.device("cpu")), wanted, atol=1e-5, rtol=0)
    assert np.abs(sight.view(image).mean(axis=(0, 1)) - resize(image, 32, 53).mean(axis=(0, 1))).max() < 8


def test_a_crop_shows_the_middle():
    np.testing.assert_allclose(CentreCrop(224, 256).field(256, 256), [16, 16, 240, 240])


@pytest.fixture(params=sorted(TEXTS), scope="module")
def text(request, setting_of):
    return load_text(setting_of(request.param), COMPUTE)


def test_every_text_encoder_gives_unit_vectors_in_order_whatever_the_batch(text):
    phrases = ["rock wall", 'a "quoted" phrase', "日本語", "🏔", "word " * 500, "cliff"]
    found = text.encode(phrases)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(text.encode(["cliff", "rock wall"]), found[[5, 0]], atol=1e-4)
    assert text.encode([]).shape == (0, found.shape[1])


def test_words_of_like_meaning_are_near():
    cliff, rock, piano = load_text("minilm", COMPUTE).encode(["cliff", "rock face", "piano"])
    assert cliff @ rock > cliff @ piano


def test_what_all_phrases_of_a_joint_space_share_is_taken_away(setting_of):
    from discovery.backends.joint import load_joint
    from discovery.vocabulary import read_vocabulary

    name, _, folder = setting_of("clip").partition(":")
    phrases = [phrase.text for phrase in read_vocabulary().phrases]
    together = load_joint(name, folder, COMPUTE).text(phrases).mean(axis=0)
    assert np.linalg.norm(together) > 0.5  # the cone, even with random weights
    assert np.linalg.norm(load_text(setting_of("clip"), COMPUTE).encode(phrases).mean(axis=0)) < 0.2


@pytest.mark.parametrize("load", [load_encoder, load_text])
def test_a_checkpoint_that_does_not_fit_is_one_line(load, tmp_path):
    with pytest.raises(BackendError, match="of type 'owlv2'; this backend reads clip"):
        load(f"clip:{save_owlv2(tmp_path)}", COMPUTE)
    with pytest.raises(BackendError, match="no folder at /nowhere"):
        load("clip:/nowhere", COMPUTE)
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"local folder.*HF_HUB_OFFLINE"):
        load("siglip", COMPUTE)
    assert time.monotonic() - started < 5


def test_what_carries_its_weights_reads_no_checkpoint():
    for load, setting in ((load_encoder, "efficientnet_lite0:/x"), (load_text, "minilm:/x")):
        with pytest.raises(ConfigError, match="reads no checkpoint '/x'"):
            load(setting, COMPUTE)
