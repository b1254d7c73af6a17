import sys

import numpy as np
import pytest
import torch
from tiny_models import Tiny, save_exported

from discovery.backends.classifier import CLASSIFIERS, Head, check_probs, load_classifier, probe_view
from discovery.backends.encoder import load_encoder
from discovery.backends.roles import Featured, softmax
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError, ConfigError

COMPUTE = ComputeConfig(device="cpu")
HEAD = Head(("cat", "dog", "owl"))


def images(n: int = 4, sizes=((40, 60), (33, 31))) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*sizes[i % len(sizes)], 3), dtype=np.uint8) for i in range(n)]


@pytest.fixture
def exported(tmp_path):
    return save_exported(tmp_path)


@pytest.fixture
def scripted(tmp_path, recwarn):
    path = tmp_path / "tiny.pt"
    torch.jit.script(Tiny()).save(path)
    recwarn.clear()
    return path


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a user's module and returns its name."""

    def write(body: str) -> str:
        (tmp_path / "my_model.py").write_text(f"import numpy as np\n{body}\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        sys.modules.pop("my_model", None)
        return "my_model:predict"

    yield write
    sys.modules.pop("my_model", None)


def python_model(module, body: str):
    return load_classifier(ModelConfig(kind="python", callable=module(body)), COMPUTE, HEAD)


def test_torchscript_and_export_files_agree(scripted, exported):
    one, two = (
        load_classifier(ModelConfig(kind="torch", path=str(path), input_px=32), COMPUTE, HEAD)
        for path in (scripted, exported)
    )
    views = [one.view(image) for image in images()]
    np.testing.assert_allclose(one.predict(views), two.predict(views), atol=1e-6)


def test_a_probe_crops_a_sixteenth_from_each_side():
    view = probe_view(ModelConfig(), load_encoder("efficientnet_lite0", COMPUTE))
    np.testing.assert_allclose(view.field(256, 256), [16, 16, 240, 240])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("np.full((len(images), 3), np.nan)", "NaN or infinity for 2 of 2 images"),
        ("np.full((len(images), 2), 0.5)", r"shape \(2, 3\), got \(2, 2\)"),
        ("np.full((1, 3), 1 / 3)", r"got \(1, 3\)"),
        ("np.full((len(images), 3), 0.5)", "sum to 1, got 1.5"),
        ("np.array([[2.0, -1.0, 0.0]] * len(images))", "probabilities that sum to 1"),
        ("['cat'] * len(images)", "array of numbers"),
        ("None", "the model must return"),
    ],
)
def test_a_model_that_answers_wrongly_is_one_clear_line(module, answer, said):
    model = python_model(module, f"def predict(images):\n    return {answer}")
    with pytest.raises(BackendError, match=said) as caught:
        model.predict(images(2))
    assert "\n" not in str(caught.value)


def test_logits_declared_as_probabilities_are_refused(exported):
    config = ModelConfig(kind="torch", path=str(exported), input_px=32, outputs="probs")
    model = load_classifier(config, COMPUTE, HEAD)
    with pytest.raises(BackendError, match="sum to 1"):
        model.predict([model.view(image) for image in images(2)])


@pytest.mark.parametrize("name", ["my_model", "nowhere:predict", "my_model:missing", "my_model:np"])
def test_a_callable_that_is_none_is_one_clear_line(module, name):
    module("")
    with pytest.raises((BackendError, ConfigError), match=r"model\.callable"):
        load_classifier(ModelConfig(kind="python", callable=name), COMPUTE, HEAD)


def test_a_missing_or_foreign_model_file_is_one_clear_line(tmp_path):
    (tmp_path / "notes.pt").write_text("not a model")
    for name, said in (("none.pt", "no model file"), ("notes.pt", "neither TorchScript nor torch.export")):
        with pytest.raises(BackendError, match=said):
            load_classifier(ModelConfig(kind="torch", path=str(tmp_path / name)), COMPUTE, HEAD)


def test_check_probs_takes_what_sums_to_one_within_rounding():
    assert check_probs([[0.3333, 0.3333, 0.3333]], 1, HEAD.classes).shape == (1, 3)


class LastLayerLinear:
    """A model whose features are the mean colour."""

    classes = HEAD.classes

    def __init__(self, config, compute, head):
        self.view, self.field = (lambda image: image), (lambda height_px, width_px: np.zeros(4, np.float32))

    def features(self, views):
        return np.stack([view.mean(axis=(0, 1)) for view in views]).astype(np.float32)

    def linear(self):
        return Head(self.classes, np.eye(3), np.zeros(3))

    def predict(self, views):
        return softmax(self.linear().logits(self.features(views)))


def test_a_fitted_head_takes_the_place_of_the_models_own(monkeypatch):
    monkeypatch.setitem(CLASSIFIERS, "torch", LastLayerLinear)
    config, views = ModelConfig(kind="torch", path="x"), images()
    other = Head(HEAD.classes, -np.eye(3), np.array([9.0, 0.0, 0.0]))
    own, repaired = load_classifier(config, COMPUTE, HEAD), load_classifier(config, COMPUTE, other)
    assert isinstance(own, Featured)
    assert isinstance(repaired, Featured)
    assert repaired.linear() is other
    np.testing.assert_allclose(repaired.predict(views), softmax(9 * np.eye(3)[0] - own.features(views)), atol=1e-12)
    assert not np.allclose(own.predict(views), repaired.predict(views))


def test_a_model_without_features_takes_no_other_head(module):
    config = ModelConfig(kind="python", callable=module("def predict(images): return np.full((len(images), 3), 1 / 3)"))
    with pytest.raises(BackendError, match=r"head of a model of kind 'python' cannot be found.*--method python"):
        load_classifier(config, COMPUTE, Head(HEAD.classes, np.eye(3), np.zeros(3)))


def test_the_probe_is_its_features_times_its_layer(rng):
    head = Head(HEAD.classes, rng.normal(size=(3, 1280)), rng.normal(size=3))
    probe = load_classifier(ModelConfig(), COMPUTE, head)
    views = [probe.view(image) for image in images(2)]
    assert isinstance(probe, Featured)
    np.testing.assert_allclose(softmax(probe.linear().logits(probe.features(views))), probe.predict(views))
