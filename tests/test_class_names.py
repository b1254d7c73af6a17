import pytest
from tiny_models import save_hf, save_timm, save_ultralytics

from discovery.backends.class_names import class_names, match_labels
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import DataError

COMPUTE = ComputeConfig(device="cpu")
IMAGENET = ("tench, Tinca tinca", "crane", "great white shark, white shark", "crane", "barn_owl")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"tench"}, ("tench", "crane #1", "great white shark, white shark", "crane #3", "barn_owl")),
        ({"White-Shark", "Barn Owl"}, ("tench, Tinca tinca", "crane #1", "White-Shark", "crane #3", "Barn Owl")),
        ({"yak"}, ("tench, Tinca tinca", "crane #1", "great white shark, white shark", "crane #3", "barn_owl")),
    ],
)
def test_a_label_means_a_class_by_any_of_its_names(labels, names):
    assert match_labels(IMAGENET, labels) == names


@pytest.mark.parametrize("labels", [{"crane"}, {"great white shark", "white shark"}])
def test_a_label_that_fits_two_classes_or_two_labels_that_fit_one_are_named(labels):
    with pytest.raises(DataError, match=r"(crane|shark).*model\.classes"):
        match_labels(IMAGENET, labels)


def test_a_whole_name_goes_before_a_part():
    assert match_labels(("cat, house cat", "cat"), {"cat"}) == ("cat, house cat", "cat")


def test_models_that_know_their_names_are_asked_and_the_configuration_overrides(tmp_path):
    names = ("Cat", "dog, hound", "barn owl")
    labels = {"cat", "hound", "barn_owl"}
    for kind, save in (
        ("hf", save_hf),
        ("timm", lambda folder, names: save_timm(folder, names=names, hub_style=True)),
        ("ultralytics", save_ultralytics),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        config = ModelConfig(kind=kind, path=str(save(folder, names)))
        assert class_names(config, COMPUTE, labels) == ("cat", "hound", "barn_owl")
        told = config.model_copy(update={"classes": ("a", "b", "c")})
        assert class_names(told, COMPUTE, labels) == ("a", "b", "c")


def test_a_model_without_names_has_the_sorted_labels(tmp_path):
    placeholders = save_hf(tmp_path, ("LABEL_0", "LABEL_1"))
    for config in (ModelConfig(kind="hf", path=str(placeholders)), ModelConfig(kind="onnx", path="x.onnx")):
        assert class_names(config, COMPUTE, {"dog", "cat"}) == ("cat", "dog")


def test_prompts_name_the_classes_of_a_zero_shot_model():
    config = ModelConfig(kind="clip_zero_shot", path="clip:x", prompts={"b": ("bee",), "a": ("ant",)})
    assert class_names(config, COMPUTE, {"a"}) == ("b", "a")
