import json

import pytest
import torch
from tiny_checkpoints import save_clip, save_owlv2
from transformers import AutoModelForImageClassification, CLIPModel, CLIPProcessor

from discovery.backends.checkpoint import Choice, load_model, load_processor, read_choice
from discovery.config import ComputeConfig
from discovery.errors import BackendError

COMPUTE = ComputeConfig(device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize(
    ("setting", "choice"),
    [
        ("conse", Choice("conse")),
        ("clip:openai/clip-vit-base-patch32", Choice("clip", "openai/clip-vit-base-patch32")),
        ("clip:C:/models/clip", Choice("clip", "C:/models/clip")),
        ("clip:", Choice("clip")),
    ],
)
def test_a_setting_is_a_name_and_perhaps_a_checkpoint(setting, choice):
    assert read_choice(setting) == choice


def test_a_saved_model_comes_back_ready_for_inference(clip):
    model = load_model(CLIPModel, str(clip), COMPUTE, types=("clip",))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(
        model.visual_projection.weight, CLIPModel.from_pretrained(clip).visual_projection.weight, rtol=0, atol=0
    )
    assert load_processor(CLIPProcessor, str(clip), COMPUTE).tokenizer.model_max_length == 16


def test_a_checkpoint_in_half_precision_is_computed_in_full(clip, tmp_path):
    CLIPModel.from_pretrained(clip).half().save_pretrained(tmp_path)
    assert load_model(CLIPModel, str(tmp_path), COMPUTE).dtype == torch.float32


def test_a_checkpoint_of_another_type_is_refused_by_type(tmp_path):
    with pytest.raises(BackendError, match="of type 'owlv2'; this backend reads clip"):
        load_model(CLIPModel, str(save_owlv2(tmp_path)), COMPUTE, types=("clip",))


def test_a_head_that_was_never_trained_is_refused(tmp_path):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(BackendError, match="never trained for this"):
        load_model(AutoModelForImageClassification, str(tmp_path), COMPUTE)


def test_what_is_not_here_is_said_at_once_with_both_ways_out():
    with pytest.raises(BackendError, match=r"local folder, or fetch it once with compute\.download.*HF_HUB_OFFLINE"):
        load_model(CLIPModel, "somebody/no-such-model", COMPUTE, types=("clip",))
    with pytest.raises(BackendError, match=r"no folder at \./nowhere"):
        load_model(CLIPModel, "./nowhere", COMPUTE)


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_one_line(clip, tmp_path, damage):
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / damage).write_bytes(b"not what it was")
    with pytest.raises(BackendError, match="cannot load") as caught:
        load_model(CLIPModel, str(tmp_path), COMPUTE, types=("clip",))
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hello": "world"}))
    with pytest.raises(BackendError, match="cannot load"):
        load_model(CLIPModel, str(tmp_path), COMPUTE, types=("clip",))
