"""An Ultralytics classification checkpoint (yolo…-cls.pt) → the model under audit; its package is AGPL-3.0."""

import os
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from discovery.backends.extras import needed
from discovery.backends.last_linear import NetClassifier
from discovery.backends.preprocessing import Preprocessing
from discovery.backends.roles import Head
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError


def load_ultralytics(config: ModelConfig, compute: ComputeConfig, head: Head) -> NetClassifier:
    """Loads `model.path`; such a file holds code: load only those that you trust.

    The network is called itself, in RGB (Ultralytics' own `predict` takes BGR), and its logits are read from its pair
    of probabilities and logits.

    Raises:
        BackendError: the extra or the file is missing, or it is no classifier.
    """
    from ultralytics.data.augment import classify_transforms

    from discovery.device import device_for

    yolo, source = _open(config.path or ""), config.path or ""
    transform = classify_transforms(yolo.overrides.get("imgsz", 224))

    def processor(images: Any, return_tensors: str) -> dict[str, Any]:
        return {"pixel_values": transform(images)[None]}

    net = yolo.model.float().eval().requires_grad_(False).to(device_for(compute))
    return NetClassifier(
        net, lambda batch: net(batch)[1], Preprocessing(processor, source), classes=head.classes, source=source
    )


def own_names(config: ModelConfig) -> tuple[str, ...]:
    """Returns the class names that a checkpoint was trained with."""
    names = _open(config.path or "").names
    return tuple(str(names[i]) for i in sorted(names))


@lru_cache(maxsize=1)
def _open(path: str) -> Any:
    if not Path(path).is_file():  # Ultralytics would look for it on its servers
        raise BackendError(f"no model file at {path}; set model.path to a yolo…-cls.pt file")
    # Neither telemetry nor packages installed behind one's back; both are read at import.
    os.environ.setdefault("YOLO_OFFLINE", "1")
    os.environ.setdefault("YOLO_AUTOINSTALL", "0")
    ultralytics = needed("ultralytics", "yolo")
    ultralytics.settings.update({"sync": False})
    try:
        yolo = ultralytics.YOLO(path, verbose=False)
    except (RuntimeError, ValueError, KeyError, OSError, TypeError, AttributeError, UnpicklingError, EOFError) as error:
        raise BackendError(f"cannot load {path} with Ultralytics: {' '.join(str(error).split())[:200]}") from error
    if yolo.task != "classify":
        raise BackendError(f"{path} was made for the task {yolo.task!r}; this kind reads classifiers (yolo…-cls.pt)")
    return yolo
