"""Tiny models under audit with random weights, one per kind, given as a user would give them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tiny_checkpoints import save_clip
from tiny_llava import save_llava

from discovery.config import MllmConfig, ModelConfig

CLASSES = ("cat", "dog", "owl")
SIDE_PX = 32


class Tiny(torch.nn.Module):
    """Three logits from the mean of each channel."""

    def forward(self, x):
        return x.mean(dim=(2, 3)) * 3


def save_exported(folder: Path) -> Path:
    """Saves a torch.export file with a dynamic batch."""
    batch = torch.export.Dim("batch", min=1, max=512)
    given = (torch.zeros(2, 3, SIDE_PX, SIDE_PX),)
    program = torch.export.export(Tiny().eval(), given, dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, folder / "tiny.pt2")
    return folder / "tiny.pt2"


def save_hf(folder: Path, names: tuple[str, ...] = CLASSES, **options: object) -> Path:
    """Saves a ResNet classifier of transformers with its image processor."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=len(names), **options
    )
    config.id2label = dict(enumerate(names))
    model = ResNetForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier[1].weight)
    model.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": SIDE_PX}, crop_pct=0.875).save_pretrained(folder)
    return folder


def save_timm(folder: Path, *, names: tuple[str, ...] = CLASSES, hub_style: bool = False) -> Path:
    """Saves the weights of a timm model, alone or with the config.json that timm's hub folders have."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=len(names))
    torch.nn.init.normal_(model.get_classifier().weight)
    file = folder / ("model.safetensors" if hub_style else "weights.safetensors")
    save_file(model.state_dict(), file)
    if not hub_style:
        return file
    settings = {"architecture": "test_resnet", "num_classes": len(names), "label_names": list(names)}
    shape = {"input_size": [3, SIDE_PX, SIDE_PX], "num_classes": len(names)}
    settings["pretrained_cfg"] = {**model.pretrained_cfg, **shape}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


YOLO_PLAN = """
nc: {n}
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""


def save_ultralytics(folder: Path, names: tuple[str, ...] = CLASSES) -> Path:
    """Saves a YOLO classifier of two convolutions, with names and an input of 32 pixels."""
    import ultralytics

    torch.manual_seed(0)
    (folder / "tiny-cls.yaml").write_text(YOLO_PLAN.format(n=len(names)))
    yolo = ultralytics.YOLO(folder / "tiny-cls.yaml", task="classify", verbose=False)
    yolo.model.names = dict(enumerate(names))
    yolo.model.train()(torch.rand(16, 3, SIDE_PX, SIDE_PX))  # its norms get a scale: else all photos look alike
    torch.nn.init.normal_(yolo.model.model[-1].linear.weight)
    for part in yolo.model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_var.mul_(0.01)
    file = folder / "tiny-cls.pt"
    yolo.save(file)
    saved = torch.load(file, weights_only=False)  # training would have left the size of its input there
    torch.save({**saved, "train_args": {"imgsz": SIDE_PX, "task": "classify"}}, file)
    return file


def save_onnx(folder: Path, *, batch: int | str = "n", last: bool = False, kind: str = "FLOAT") -> Path:
    """Saves an ONNX model that answers with each channel's mean, times three.

    Args:
        folder: where.
        batch: fixed, or a name for one that is open.
        last: channels last, (n, h, w, 3).
        kind: of the numbers it takes.
    """
    from onnx import TensorProto, checker, helper, save

    axes = [1, 2] if last else [2, 3]
    shape = [batch, SIDE_PX, SIDE_PX, 3] if last else [batch, 3, SIDE_PX, SIDE_PX]
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "three"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], axes),
        helper.make_tensor("three", TensorProto.FLOAT, [1], [3.0]),
    ]
    given = helper.make_tensor_value_info("images", getattr(TensorProto, kind), shape)
    said = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph(nodes, "tiny", [given], [said], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    save(model, folder / "tiny.onnx")
    return folder / "tiny.onnx"


def brightness(images: list[np.ndarray]) -> np.ndarray:
    """Returns (n, 3) probabilities from the mean of each channel: what the served model and the function answer."""
    means = np.array([np.exp(image.mean(axis=(0, 1)) / 64) for image in images]).reshape(-1, 3)
    return means / means.sum(axis=1, keepdims=True)


KINDS: dict[str, Callable[[Path, str], ModelConfig]] = {
    "probe": lambda folder, url: ModelConfig(),
    "torch": lambda folder, url: ModelConfig(kind="torch", path=str(save_exported(folder)), input_px=SIDE_PX),
    "python": lambda folder, url: ModelConfig(kind="python", callable="tiny_models:brightness"),
    "hf": lambda folder, url: ModelConfig(kind="hf", path=str(save_hf(folder))),
    "timm": lambda folder, url: ModelConfig(kind="timm", path=str(save_timm(folder, hub_style=True))),
    "ultralytics": lambda folder, url: ModelConfig(kind="ultralytics", path=str(save_ultralytics(folder))),
    "onnx": lambda folder, url: ModelConfig(kind="onnx", path=str(save_onnx(folder))),
    "clip_zero_shot": lambda folder, url: ModelConfig(kind="clip_zero_shot", path=f"clip:{save_clip(folder)}"),
    "mllm": lambda folder, url: ModelConfig(
        kind="mllm", mllm=MllmConfig(checkpoint=str(save_llava(folder / "llava")), min_mass=0)
    ),
    "http": lambda folder, url: ModelConfig(kind="http", url=url, retries=0, timeout_s=5),
}
"""For each kind that can be asked: its configuration, its files made in a folder; url is a server of `brightness`."""
