"""A timm model, by its name and a weights file or as a hub-style folder → the model under audit."""

import json
from pathlib import Path
from typing import Any

from discovery.backends.extras import needed
from discovery.backends.last_linear import NetClassifier
from discovery.backends.preprocessing import Preprocessing
from discovery.backends.roles import Head
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError, ConfigError


def load_timm(config: ModelConfig, compute: ComputeConfig, head: Head) -> NetClassifier:
    """Loads `model.path`; it sees photos through timm's own transforms of that model.

    Raises:
        ConfigError: a file is named without `model.arch`, or there is no such architecture.
        BackendError: it is not here, or its weights are those of another model.
    """
    timm = needed("timm", "timm")
    from timm.data import create_transform, resolve_model_data_config

    from discovery.device import device_for

    source = config.path or ""
    net = _load(timm, config, len(head.classes)).eval().requires_grad_(False).to(device_for(compute))
    transform = create_transform(**resolve_model_data_config(net), is_training=False)

    def processor(images: Any, return_tensors: str) -> dict[str, Any]:
        return {"pixel_values": transform(images)[None]}

    return NetClassifier(net, net, Preprocessing(processor, source), classes=head.classes, source=source)


def _load(timm: Any, config: ModelConfig, n_classes: int) -> Any:
    path = Path(config.path or "")
    if not path.exists():
        raise BackendError(f"nothing at {path}; set model.path to a .safetensors or .pth file, or a hub-style folder")
    options = {"pretrained": True}
    if path.is_file():
        if not config.arch:
            raise ConfigError(f"{path.name} holds weights alone: set model.arch to its timm name, such as 'resnet50'")
        if not timm.is_model(config.arch):
            raise ConfigError(f"timm knows no model.arch {config.arch!r}; timm.list_models() lists them")
        options = {"num_classes": n_classes, "checkpoint_path": str(path)}
    try:
        return timm.create_model(config.arch if path.is_file() else f"local-dir:{path}", **options)
    except (RuntimeError, ValueError, KeyError, OSError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise BackendError(f"cannot load {path} as timm's {config.arch or 'folder'}: {said}") from error


def own_names(config: ModelConfig) -> tuple[str, ...]:
    """Returns the label names in a folder's config.json; a weights file has none."""
    file = Path(config.path or "") / "config.json"
    if not file.is_file():
        return ()
    try:
        return tuple(map(str, json.loads(file.read_text()).get("label_names") or ()))
    except (ValueError, AttributeError) as error:
        raise BackendError(f"cannot read {file}: {error}") from error
