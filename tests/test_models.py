"""One contract for every kind of model under audit, over the dict of kinds."""

import base64
import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_httpserver import HTTPServer
from tiny_checkpoints import save_clip, save_siglip
from tiny_models import CLASSES, KINDS, Tiny, brightness, save_hf, save_onnx, save_timm, save_ultralytics
from werkzeug import Response

from discovery.backends.classifier import CLASSIFIERS, load_classifier, model_state
from discovery.backends.roles import Featured, Head, softmax
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError, ConfigError

COMPUTE = ComputeConfig(device="cpu")
RECORDED = "predictions"
"""The kind that cannot be asked; it has tests of its own."""
FEATURED = {"probe", "hf", "timm", "ultralytics", "clip_zero_shot"}
WITH_CHECKPOINT = ("torch", "hf", "timm", "ultralytics", "onnx", "clip_zero_shot", RECORDED)
EXTRA_OF = {"timm": "timm", "ultralytics": "yolo", "onnx": "onnx", "http": "http"}
PACKAGE_OF = {"timm": "timm", "ultralytics": "ultralytics", "onnx": "onnxruntime", "http": "urllib3"}


def images(n: int = 4, sizes=((40, 60), (33, 31))) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    tints = [np.array([1, 0.4, 0.2]), np.array([0.2, 1, 0.5]), np.array([0.3, 0.3, 1])]
    return [(rng.integers(0, 255, (*sizes[i % len(sizes)], 3)) * tints[i % 3]).astype(np.uint8) for i in range(n)]


def answer(request) -> Response:
    """Answers as a user's server would."""
    shown = [np.array(Image.open(io.BytesIO(base64.b64decode(one)))) for one in request.get_json()["images"]]
    return Response(json.dumps({"probs": brightness(shown).tolist()}), content_type="application/json")


@pytest.fixture(scope="module")
def server():
    with HTTPServer(host="127.0.0.1", port=0) as running:
        running.expect_request("/predict", method="POST").respond_with_handler(answer)
        yield running


@pytest.fixture(scope="module")
def config_of(tmp_path_factory, server):
    """Returns a kind's configuration; its files are made once."""
    made: dict[str, ModelConfig] = {}

    def config(kind: str) -> ModelConfig:
        if kind not in made:
            made[kind] = KINDS[kind](tmp_path_factory.mktemp(kind), server.url_for("/predict"))
        return made[kind]

    return config


@pytest.fixture(params=sorted(set(CLASSIFIERS) - {RECORDED}), scope="module")
def named(request, config_of):
    head = Head(CLASSES)
    if request.param == "probe":
        rng = np.random.default_rng(0)
        head = Head(CLASSES, rng.normal(0, 0.05, size=(3, 1280)), np.zeros(3))
    return request.param, load_classifier(config_of(request.param), COMPUTE, head)


@pytest.fixture
def classifier(named):
    return named[1]


def test_every_kind_has_a_tiny_model_for_its_contract():
    assert set(KINDS) == set(CLASSIFIERS) - {RECORDED}, "add the kind to tests/tiny_models.py"


def test_every_model_gives_probabilities_in_order_for_any_size(classifier):
    views = [classifier.view(image) for image in images()]
    probs = classifier.predict(views)
    assert probs.shape == (4, 3)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(classifier.predict(views[::-1]), probs[::-1], atol=1e-5)
    np.testing.assert_allclose(classifier.predict(views[:1]), probs[:1], atol=1e-5)
    np.testing.assert_allclose(classifier.predict(views), probs, atol=1e-12)
    assert np.abs(probs[0] - probs[1]).max() > 1e-4  # it looks at its photos


def test_every_model_takes_no_views(classifier):
    assert classifier.predict([]).shape == (0, 3)


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3)])
def test_every_model_takes_odd_sizes(classifier, shape):
    view = classifier.view(np.zeros((*shape, 3), np.uint8))
    assert view.dtype == np.uint8
    assert np.isfinite(classifier.predict([view])).all()
    x0, y0, x1, y1 = classifier.field(*shape)
    assert 0 <= x0 < x1 <= shape[1]
    assert 0 <= y0 < y1 <= shape[0]


def test_a_view_is_the_field_of_its_image(classifier):
    image = np.zeros((60, 100, 3), np.uint8)
    x0, y0, x1, y1 = classifier.field(60, 100)
    # A bright block inside the field is in the view; one outside it is not.
    image[int(y0) : int(np.ceil(y1)), round((x0 + x1) / 2) :] = 255
    assert classifier.view(image).mean() == pytest.approx(127, abs=12)


def test_what_changes_in_a_view_changes_the_answer(classifier):
    view = classifier.view(images(1)[0])
    changed = view.copy()
    changed[: len(view) // 2] = [0, 255, 0]
    before, after = classifier.predict([view, changed])
    assert np.abs(before - after).max() > 1e-4


def test_a_model_with_a_linear_end_gives_it(named):
    kind, model = named
    assert isinstance(model, Featured) == (kind in FEATURED)
    if kind not in FEATURED:
        return
    views = [model.view(image) for image in images()]
    features = model.features(views)
    assert features.dtype == np.float32
    assert model.features([]).shape == (0, features.shape[1])
    np.testing.assert_allclose(softmax(model.linear().logits(features)), model.predict(views), atol=1e-4)


@pytest.mark.parametrize("kind", sorted(FEATURED - {"probe"}))
def test_a_repaired_layer_takes_the_place_of_the_models_own(kind, config_of):
    own = load_classifier(config_of(kind), COMPUTE, Head(CLASSES))
    views = [own.view(image) for image in images()]
    turned = Head(CLASSES, -own.linear().coef, np.array([2.0, 0.0, 0.0]))
    repaired = load_classifier(config_of(kind), COMPUTE, turned)
    expected = softmax(turned.logits(own.features(views)))
    np.testing.assert_allclose(repaired.predict(views), expected, atol=1e-6)
    assert np.abs(repaired.predict(views) - own.predict(views)).max() > 1e-3


@pytest.mark.parametrize("kind", WITH_CHECKPOINT)
def test_a_model_that_is_not_there_is_one_line(kind, tmp_path):
    path = f"clip:{tmp_path}/none" if kind == "clip_zero_shot" else f"{tmp_path}/none"
    config = ModelConfig(kind=kind, path=path, arch="test_resnet")
    with pytest.raises(BackendError, match=rf"(nothing|no \w+( \w+)?) at {tmp_path}/none") as caught:
        load_classifier(config, COMPUTE, Head(CLASSES)).predict([np.zeros((32, 32, 3), np.uint8)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(set(WITH_CHECKPOINT) - {"clip_zero_shot", RECORDED}))
def test_a_file_of_something_else_is_one_line(kind, tmp_path):
    path = tmp_path / "notes.bin"
    path.write_text("not a model")
    if kind == "hf":
        path = tmp_path
        (tmp_path / "config.json").write_text('{"hello": "world"}')
    config = ModelConfig(kind=kind, path=str(path), arch="test_resnet")
    with pytest.raises(BackendError) as caught:
        load_classifier(config, COMPUTE, Head(CLASSES))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", sorted(EXTRA_OF))
def test_a_missing_extra_is_named_with_its_command(kind, config_of, monkeypatch):
    config = config_of(kind)
    monkeypatch.setitem(sys.modules, PACKAGE_OF[kind], None)
    if kind == "ultralytics":
        from discovery.backends import classifier_ultralytics

        classifier_ultralytics._open.cache_clear()
    with pytest.raises(BackendError, match=rf"pip install '\.\[{EXTRA_OF[kind]}\]'"):
        load_classifier(config, COMPUTE, Head(CLASSES))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"probe", "http", "mllm"}))
def test_a_changed_model_file_is_another_model(kind, config_of):
    state = model_state(config_of(kind))
    assert state
    assert all(size > 0 for _, size, _ in state)


def test_the_tiny_models_agree_with_each_other(config_of):
    one, two = (load_classifier(config_of(kind), COMPUTE, Head(CLASSES)) for kind in ("torch", "onnx"))
    views = [one.view(image) for image in images()]
    np.testing.assert_array_equal(views, [two.view(image) for image in images()])
    np.testing.assert_allclose(one.predict(views), two.predict(views), atol=1e-6)
    batch = (
        torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) / 255 - torch.tensor(one._config.mean)[:, None, None]
    ) / (torch.tensor(one._config.std)[:, None, None])
    np.testing.assert_allclose(one.predict(views), softmax(Tiny()(batch).double().numpy()), atol=1e-5)


def test_timm_weights_alone_need_their_architecture(tmp_path):
    file = save_timm(tmp_path)
    model = load_classifier(ModelConfig(kind="timm", path=str(file), arch="test_resnet"), COMPUTE, Head(CLASSES))
    views = [model.view(image) for image in images(2)]
    assert views[0].shape == (160, 160, 3)
    np.testing.assert_allclose(softmax(model.linear().logits(model.features(views))), model.predict(views), atol=1e-4)
    for arch, error, said in (
        (None, ConfigError, r"set model\.arch"),
        ("resnet9000", ConfigError, "timm knows no model.arch 'resnet9000'"),
        ("test_vit", BackendError, "cannot load .*weights.safetensors as timm's test_vit"),
    ):
        with pytest.raises(error, match=said):
            load_classifier(ModelConfig(kind="timm", path=str(file), arch=arch), COMPUTE, Head(CLASSES))


def test_transformers_reads_timm_folders_too_and_both_agree(tmp_path):
    folder = str(save_timm(tmp_path, hub_style=True))
    one, two = (load_classifier(ModelConfig(kind=kind, path=folder), COMPUTE, Head(CLASSES)) for kind in ("timm", "hf"))
    views = [one.view(image) for image in images()]
    np.testing.assert_array_equal(views, [two.view(image) for image in images()])
    np.testing.assert_allclose(one.predict(views), two.predict(views), atol=1e-5)


def test_hf_answers_as_transformers_own_pipeline_does(tmp_path):
    from transformers import pipeline

    folder = save_hf(tmp_path)
    model = load_classifier(ModelConfig(kind="hf", path=str(folder)), COMPUTE, Head(CLASSES))
    own = pipeline("image-classification", model=str(folder), device="cpu", top_k=3)
    for image in images():
        wanted = {row["label"]: row["score"] for row in own(Image.fromarray(image))}
        np.testing.assert_allclose(model.predict([model.view(image)])[0], [wanted[name] for name in CLASSES], atol=1e-5)


def test_ultralytics_answers_as_its_own_predict_does_in_bgr(tmp_path):
    from ultralytics import YOLO

    file = save_ultralytics(tmp_path)
    model = load_classifier(ModelConfig(kind="ultralytics", path=str(file)), COMPUTE, Head(CLASSES))
    own = YOLO(file, verbose=False)
    for image in images():
        wanted = own.predict(np.ascontiguousarray(image[..., ::-1]), verbose=False, imgsz=32, device="cpu")[
            0
        ].probs.data
        np.testing.assert_allclose(model.predict([model.view(image)])[0], wanted.numpy(), atol=1e-3)
    from ultralytics import settings

    assert settings["sync"] is False


def test_a_detector_is_no_classifier(tmp_path):
    from ultralytics import YOLO

    YOLO("yolo11n.yaml", verbose=False).save(tmp_path / "boxes.pt")
    with pytest.raises(BackendError, match="made for the task 'detect'"):
        load_classifier(ModelConfig(kind="ultralytics", path=str(tmp_path / "boxes.pt")), COMPUTE, Head(CLASSES))


def test_a_model_of_several_labels_is_refused(tmp_path):
    folder = save_hf(tmp_path, problem_type="multi_label_classification")
    with pytest.raises(BackendError, match="several labels per photo"):
        load_classifier(ModelConfig(kind="hf", path=str(folder)), COMPUTE, Head(CLASSES))


def test_a_model_without_a_linear_end_is_audited_and_gives_no_features(tmp_path, monkeypatch):
    folder = save_hf(tmp_path)
    model = load_classifier(ModelConfig(kind="hf", path=str(folder)), COMPUTE, Head(CLASSES))
    said = model._logits
    monkeypatch.setattr(model, "_logits", lambda batch: said(batch) * torch.tensor([1.0, 2.0, 3.0]))
    assert model.predict([model.view(image) for image in images()]).shape == (4, 3)
    with pytest.raises(BackendError, match=r"head of .* cannot be found"):
        model.linear()


@pytest.mark.parametrize("kind", ["hf", "clip_zero_shot"])
def test_half_precision_changes_answers_slightly_and_finds_the_same_layer(kind, config_of, monkeypatch):
    from discovery.backends import checkpoint
    from discovery.backends.joint import load_joint

    whole = load_classifier(config_of(kind), COMPUTE, Head(CLASSES))
    views = [whole.view(image) for image in images()]
    load = checkpoint.load_model
    for user in ("classifier_hf", "joint"):
        halved = lambda *given, **options: load(*given, **options).half()  # noqa: E731
        monkeypatch.setattr(f"discovery.backends.{user}.load_model", halved)
    load_joint.cache_clear()
    half = load_classifier(config_of(kind), COMPUTE, Head(CLASSES))
    load_joint.cache_clear()
    assert half.features(views).dtype == np.float32
    np.testing.assert_allclose(half.predict(views), whole.predict(views), atol=0.05)
    np.testing.assert_allclose(half.linear().coef, whole.linear().coef, rtol=0.02, atol=0.05)
    assert np.abs(half.predict(views) - whole.predict(views)).max() > 0


@pytest.mark.parametrize("number", ["FLOAT", "FLOAT16", "DOUBLE", "UINT8"])
@pytest.mark.parametrize(("batch", "last"), [("n", False), ("n", True), (3, False), (1, True)])
def test_onnx_layouts_batches_and_numbers(tmp_path, batch, last, number):
    file = save_onnx(tmp_path, batch=batch, last=last, kind=number)
    model = load_classifier(ModelConfig(kind="onnx", path=str(file)), COMPUTE, Head(CLASSES))
    views = [model.view(image) for image in images()]
    means = np.array([view.mean(axis=(0, 1)) for view in views])
    if number != "UINT8":
        means = (means / 255 - model._config.mean) / model._config.std
    np.testing.assert_allclose(model.predict(views), softmax(3 * means), atol=2e-2 if number == "FLOAT16" else 1e-4)


def test_an_onnx_model_of_something_else_is_one_line(tmp_path):
    from onnx import TensorProto, helper, save

    given = helper.make_tensor_value_info("words", TensorProto.INT64, ["n", 7])
    said = helper.make_tensor_value_info("out", TensorProto.INT64, ["n", 7])
    graph = helper.make_graph([helper.make_node("Identity", ["words"], ["out"])], "text", [given], [said])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "text.onnx")
    with pytest.raises(BackendError, match="not one batch of RGB images"):
        load_classifier(ModelConfig(kind="onnx", path=str(tmp_path / "text.onnx")), COMPUTE, Head(CLASSES))


def test_a_zero_shot_class_is_the_mean_of_its_prompts(tmp_path):
    from discovery.backends.joint import load_joint

    path = save_clip(tmp_path)
    config = ModelConfig(
        kind="clip_zero_shot",
        path=f"clip:{path}",
        prompts={"cat": ("cat", "kitten")},
        templates=("a photo of a {}.", "a {}"),
    )
    model, space = load_classifier(config, COMPUTE, Head(("cat", "barn_owl"))), load_joint("clip", str(path), COMPUTE)
    texts = [
        ["a photo of a cat.", "a cat", "a photo of a kitten.", "a kitten"],
        ["a photo of a barn owl.", "a barn owl"],
    ]
    means = np.stack([space.text(ones).mean(axis=0) for ones in texts])
    wanted = space.scale * means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(model.linear().coef, wanted, rtol=1e-5)


def test_one_prompt_per_class_answers_as_clip_itself_does(config_of):
    from transformers import CLIPModel, CLIPProcessor

    config = config_of("clip_zero_shot")
    folder = config.path.partition(":")[2]
    processor, clip = CLIPProcessor.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    model, shown = load_classifier(config, COMPUTE, Head(CLASSES)), images()
    texts = [f"a photo of a {name}." for name in CLASSES]
    given = processor(text=texts, images=[Image.fromarray(one) for one in shown], return_tensors="pt", padding=True)
    with torch.inference_mode():
        wanted = clip(**given).logits_per_image.softmax(dim=1).numpy()
    np.testing.assert_allclose(model.predict([model.view(one) for one in shown]), wanted, atol=1e-4)


def test_siglip_answers_by_its_own_scale_on_texts_padded_as_it_was_trained(tmp_path):
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

    folder = save_siglip(tmp_path)
    siglip, processor = SiglipModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    model = load_classifier(ModelConfig(kind="clip_zero_shot", path=f"siglip:{folder}"), COMPUTE, Head(CLASSES))
    texts, shown = [f"a photo of a {name}." for name in CLASSES], images()
    length = siglip.config.text_config.max_position_embeddings
    words = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    pixels = processor(images=[Image.fromarray(one) for one in shown], return_tensors="pt").pixel_values
    with torch.inference_mode():
        said = siglip(input_ids=words["input_ids"], pixel_values=pixels).logits_per_image
    found = model.predict([model.view(one) for one in shown])
    np.testing.assert_allclose(found, said.softmax(dim=1).numpy(), atol=1e-4)


@pytest.mark.parametrize("path", ["owlv2:/x", "/x", "openai/clip-vit-base-patch32"])
def test_a_zero_shot_model_names_its_family(path):
    with pytest.raises(ConfigError, match="clip:FOLDER_OR_ID or siglip:FOLDER_OR_ID"):
        load_classifier(ModelConfig(kind="clip_zero_shot", path=path), COMPUTE, Head(CLASSES))
