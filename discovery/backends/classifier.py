"""Images → class probabilities: the model under audit, one loader per way it is given."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from discovery.backends.checkpoint import checkpoint_state, files_state
from discovery.backends.roles import Classifier, Featured, Head, Reheaded, check_probs, softmax
from discovery.backends.views import CentreCrop, Sight, WholeImage
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from discovery.backends.encoder import Encoder


def load_classifier(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    """Loads the model under audit.

    Raises:
        ConfigError: there is no such kind of model.
        BackendError: its file or function is missing or cannot be loaded.
    """
    if config.kind not in CLASSIFIERS:
        raise ConfigError(f"unknown model.kind {config.kind!r}; choose from {', '.join(CLASSIFIERS)}")
    model = CLASSIFIERS[config.kind](config, compute, head)
    if head.coef is not None and config.kind != "probe":
        model = Reheaded(featured(model, config.kind), head)
    if config.sensor is None:
        return model
    from discovery.backends.sensor import with_sensor

    return with_sensor(model, config, compute, head)


def featured(model: Classifier, kind: str) -> Featured:
    """Returns the model when its last layer can be replaced.

    Raises:
        BackendError: it is none of those.
    """
    if isinstance(model, Featured):
        return model
    raise BackendError(
        f"the head of a model of kind {kind!r} cannot be found: it gives no features; audit it as a kind that does, "
        "such as 'probe', or repair it with --method python and your own training"
    )


def head_of(heads: pl.DataFrame) -> Head:
    """Reads the table `heads`."""
    classes = tuple(heads["class_name"])
    if heads["coef"].null_count():
        return Head(classes)
    gated = "gate" in heads.columns and not heads["gate"].null_count()  # a run of before 0.3.2 has no such column
    gate = np.array(heads["gate"].to_list()) if gated else None
    return Head(classes, np.array(heads["coef"].to_list()), heads["intercept"].to_numpy(), gate)


class ProbeClassifier:
    """A frozen backbone with the logistic regression that `fit` left in the table `heads`."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, head: Head) -> None:
        from discovery.backends.encoder import load_encoder

        if head.coef is None or head.intercept is None:
            raise BackendError("the probe has no fitted head; run the stage fit first")
        self.classes = head.classes
        self.backbone = config.backbone
        self._encoder = load_encoder(config.backbone, compute)
        if hasattr(self._encoder, "dense"):
            self.dense = self._encoder.dense  # makes it a `Mapped`
        self._head = head
        sight = probe_view(config, self._encoder)
        self.view, self.field = sight.view, sight.field

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        return self.from_features(self.features(views))

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Returns (n, d) features of views."""
        return self._encoder.pooled(np.asarray(views))

    def linear(self) -> Head:
        """See `Featured.linear`."""
        return self._head

    def from_features(self, features: np.ndarray) -> np.ndarray:
        """Returns (n, c) float64 probabilities of (n, d) features."""
        return softmax(self._head.logits(features))


class TorchClassifier:
    """A TorchScript (.pt) or torch.export (.pt2) file: (n, 3, s, s) float32 → (n, c).

    TorchScript files hold code: load only those you trust.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, head: Head) -> None:
        import torch

        from discovery.device import device_for

        self.classes = head.classes
        self._config, self._device = config, device_for(compute)
        self._model = _load_torch(Path(config.path or ""), self._device)
        crop = CentreCrop(config.input_px, config.resize_px)
        self.view, self.field = crop.view, crop.field
        self._mean = torch.tensor(config.mean, device=self._device).view(3, 1, 1) * 255
        self._std = torch.tensor(config.std, device=self._device).view(3, 1, 1) * 255

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        import torch

        if not len(views):
            return np.empty((0, len(self.classes)))
        batch = torch.from_numpy(np.asarray(views)).to(self._device).permute(0, 3, 1, 2)
        with torch.inference_mode():
            try:
                out = self._model((batch.float() - self._mean) / self._std)
            except RuntimeError as error:
                raise BackendError(
                    f"{self._config.path} failed on shape {tuple(batch.shape)}: {str(error).splitlines()[0]}; "
                    "check model.input_px, and export it with a dynamic batch"
                ) from error
        out = out[0] if isinstance(out, tuple | list) else out
        answer = out.double().cpu().numpy() if hasattr(out, "double") else out
        if self._config.outputs == "logits" and np.ndim(answer) == 2 and np.isfinite(answer).all():
            answer = softmax(answer)
        return check_probs(answer, len(batch), self.classes)


class PythonClassifier:
    """A user's function: a list of (H, W, 3) uint8 RGB images → (n, c) probabilities."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, head: Head) -> None:
        self.classes = head.classes
        self._call = import_callable(config.callable or "")
        whole = WholeImage()
        self.view, self.field = whole.view, whole.field

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        answer = self._call(list(views)) if len(views) else np.empty((0, len(self.classes)))
        return check_probs(answer, len(views), self.classes)


def _hf(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    from discovery.backends.classifier_hf import load_hf

    return load_hf(config, compute, head)


def _timm(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    from discovery.backends.classifier_timm import load_timm

    return load_timm(config, compute, head)


def _ultralytics(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    from discovery.backends.classifier_ultralytics import load_ultralytics

    return load_ultralytics(config, compute, head)


def _onnx(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    from discovery.backends.classifier_onnx import OnnxClassifier

    return OnnxClassifier(config, compute, head)


def _clip_zero_shot(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    from discovery.backends.classifier_zero_shot import ZeroShotClassifier

    return ZeroShotClassifier(config, compute, head)


def _http(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    from discovery.backends.classifier_http import HttpClassifier

    return HttpClassifier(config, compute, head)


def _predictions(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    from discovery.backends.classifier_recorded import RecordedClassifier

    return RecordedClassifier(config, compute, head)


class FeaturedPython(PythonClassifier):
    """A user's function that also has `features(images)` → (n, d) and `linear()` → coef (c, d) and intercept (c,)."""

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Featured.features`."""
        found = np.asarray(self._call.features(list(views)), np.float32)
        if found.ndim != 2 or len(found) != len(views):
            raise BackendError(f"features of model.callable must be ({len(views)}, d), got {found.shape}")
        return found

    def linear(self) -> Head:
        """See `Featured.linear`."""
        coef, intercept = (np.asarray(part, np.float64) for part in self._call.linear())
        return Head(self.classes, coef, intercept)


def _python(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    call = import_callable(config.callable or "")
    featured = hasattr(call, "features") and hasattr(call, "linear")
    return (FeaturedPython if featured else PythonClassifier)(config, compute, head)


def _mllm(config: ModelConfig, compute: ComputeConfig, head: Head) -> Classifier:
    from discovery.backends.classifier_mllm import MllmClassifier

    return MllmClassifier(config, compute, head)


CLASSIFIERS: dict[str, Callable[[ModelConfig, ComputeConfig, Head], Classifier]] = {
    "probe": ProbeClassifier,
    "torch": TorchClassifier,
    "python": _python,
    "mllm": _mllm,
    "hf": _hf,
    "timm": _timm,
    "ultralytics": _ultralytics,
    "onnx": _onnx,
    "clip_zero_shot": _clip_zero_shot,
    "http": _http,
    "predictions": _predictions,
}


def probe_view(config: ModelConfig, encoder: "Encoder") -> Sight:
    """Returns how a probe sees an image: as its backbone does, unless `model.resize_px` asks for another crop."""
    return encoder if config.resize_px is None else CentreCrop(encoder.input_px, config.resize_px)


def model_state(config: ModelConfig) -> list[tuple[str, int, int]]:
    """Returns what changes when the files behind a model do: path, size and time of each.

    A model that is served, or fetched from a hub, may change without a trace here.
    """
    if config.kind == "python":
        module = sys.modules[import_callable(config.callable or "").__module__]
        return files_state(getattr(module, "__file__", None))
    if config.kind in ("probe", "clip_zero_shot"):
        return checkpoint_state(config.backbone if config.kind == "probe" else config.path or "")
    return files_state(config.path)


def _load_torch(path: Path, device):
    import torch

    if not path.is_file():
        raise BackendError(
            f"no model file at {path}; set model.path to a TorchScript (.pt) or torch.export (.pt2) file"
        )
    try:
        if path.suffix == ".pt2":
            return torch.export.load(path).module().to(device)
        with warnings.catch_warnings():  # TorchScript is deprecated, and users still have such files
            warnings.filterwarnings("ignore", message=".*torch.jit.load.*", category=FutureWarning)
            return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise BackendError(
            f"{path} is neither TorchScript nor torch.export ({str(error).splitlines()[0]}); "
            "save it with torch.jit.save (.pt) or torch.export.save (.pt2)"
        ) from error


def import_callable(name: str, key: str = "model.callable") -> Callable:
    """Imports 'package.module:callable', which a setting names, from the working directory.

    Raises:
        ConfigError, BackendError: it has another form, or cannot be imported or called.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not attribute:
        raise ConfigError(f"{key} wants 'package.module:callable', got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BackendError(
            f"cannot import {key} {name!r}: {error}; it is looked up from the working directory"
        ) from error
    if not callable(found):
        raise BackendError(f"{key} {name!r} is a {type(found).__name__}, not a function")
    return found
