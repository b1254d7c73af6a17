"""An ONNX file → the model under audit, run by onnxruntime; layout, batch and number type are read off its input."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from discovery.backends.extras import needed
from discovery.backends.roles import Head, check_probs, softmax
from discovery.backends.views import CentreCrop
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError

NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
BYTES = "tensor(uint8)"
"""A model that takes bytes is given the pixels as they are."""


class OnnxClassifier:
    """An ONNX classifier: (n, 3, s, s) or (n, s, s, 3) → (n, c).

    The view's side is the input's, or `model.input_px` where that is left open. A fixed batch is filled up with blank
    views, whose answers are dropped.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, head: Head) -> None:
        self.classes, self._config = head.classes, config
        self._session = _open(config.path or "", compute)
        self._input = self._session.get_inputs()[0]
        shape = self._input.shape
        if len(self._session.get_inputs()) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise BackendError(
                f"{config.path} takes {[(one.name, one.shape) for one in self._session.get_inputs()]}, "
                "not one batch of RGB images (n, 3, s, s) or (n, s, s, 3)"
            )
        if self._input.type not in (*NUMBERS, BYTES):
            raise BackendError(f"{config.path} takes {self._input.type}; choose from {', '.join((*NUMBERS, BYTES))}")
        self._first = shape[1] == 3
        self._batch = shape[0] if isinstance(shape[0], int) else None
        sides = {side for side in (shape[2:] if self._first else shape[1:3]) if isinstance(side, int)}
        if len(sides) > 1:
            raise BackendError(f"{config.path} takes images of {shape}; only square ones are cropped for it")
        crop = CentreCrop(sides.pop() if sides else config.input_px, config.resize_px)
        self.view, self.field = crop.view, crop.field

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        size = self._batch or max(1, len(views))
        parts = [self._ask(views[start : start + size], size) for start in range(0, len(views), size)]
        answer = np.concatenate(parts) if parts else np.empty((0, len(self.classes)))
        if self._config.outputs == "logits" and answer.ndim == 2 and np.isfinite(answer).all():
            answer = softmax(answer)
        return check_probs(answer, len(views), self.classes)

    def _ask(self, views: Sequence[np.ndarray], size: int) -> np.ndarray:
        batch = np.asarray(views)
        if self._batch:
            batch = np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
        if self._input.type != BYTES:
            scaled = (batch / 255 - np.array(self._config.mean)) / np.array(self._config.std)
            batch = scaled.astype(NUMBERS[self._input.type])
        batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2) if self._first else batch)
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

        try:
            answer = self._session.run(None, {self._input.name: batch})[0]
        except (Fail, InvalidArgument, RuntimeException) as error:
            said = " ".join(str(error).split())[:200]
            raise BackendError(
                f"{self._config.path} failed on shape {batch.shape}: {said}; check model.input_px"
            ) from error
        return np.asarray(answer, np.float64)[: len(views)]


def _open(path: str, compute: ComputeConfig):
    onnxruntime = needed("onnxruntime", "onnx")
    if not Path(path).is_file():
        raise BackendError(f"no model file at {path}; set model.path to an .onnx file")
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NotImplemented

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = compute.threads
    options.log_severity_level = 3
    wanted = ["CPUExecutionProvider"]
    if compute.device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        wanted.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(path, options, providers=wanted)
    except (Fail, InvalidGraph, InvalidProtobuf, NotImplemented, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise BackendError(f"cannot load {path} with onnxruntime: {said}") from error
