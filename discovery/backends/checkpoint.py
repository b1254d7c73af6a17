"""A setting such as `clip:FOLDER` → a transformers model and its processor, or one clear line why there is none."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discovery.config import ComputeConfig
from discovery.errors import BackendError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Choice:
    """A backend and, where it reads one, its checkpoint.

    Attributes:
        name: of the backend, a key of its role's dict.
        checkpoint: a local folder or a hub id; None for the backend's own default.
    """

    name: str
    checkpoint: str | None = None


def read_choice(setting: str) -> Choice:
    """Reads `name` or `name:checkpoint`; only the first colon divides, so that a checkpoint may hold others."""
    name, _, checkpoint = setting.partition(":")
    return Choice(name.strip(), checkpoint.strip() or None)


def checkpoint_state(setting: str) -> list[tuple[str, int, int]]:
    """Returns paths, sizes and times of the files behind a setting such as `clip:FOLDER`; empty for a hub id."""
    return files_state(read_choice(setting).checkpoint)


def files_state(place: str | None) -> list[tuple[str, int, int]]:
    """Returns paths, sizes and times of a file, or of the files in a folder; empty for what is not here."""
    path = Path(place or "").expanduser()
    if not place or not path.exists():
        return []
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def load_model(auto: Any, checkpoint: str, compute: ComputeConfig, *, types: Collection[str] = ()) -> "PreTrainedModel":
    """Loads a model for inference, on its device; with `compute.fast` on CUDA in half precision and compiled.

    Args:
        auto: a class of transformers with `from_pretrained`.
        checkpoint: a local folder or a hub id; fetched only with `compute.download`.
        compute: where it runs.
        types: the `model_type`s of its configuration that fit this backend; empty for any that `auto` takes.

    Raises:
        BackendError: it is not here, is of another type, or lacks some of the model's weights.
    """
    import torch

    from discovery.device import device_for

    device = device_for(compute)
    _check_type(checkpoint, compute, types)
    model, info = _from_pretrained(auto, checkpoint, compute, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise BackendError(
            f"{checkpoint} lacks {len(missing)} of the weights of {type(model).__name__} ({missing[0]}, …): "
            "its head was never trained for this; name a checkpoint that was"
        )
    # A checkpoint saved in half precision would be computed in it, slowly and roughly on a CPU.
    model = model.eval().requires_grad_(False).to(device, torch.float32)
    if compute.fast and device.type == "cuda":
        model = model.to(torch.float16)
        model.compile(dynamic=True)
    return model


def load_processor(auto: Any, checkpoint: str, compute: ComputeConfig) -> Any:
    """Loads a processor, image processor, tokenizer or configuration.

    Raises:
        BackendError: it is not here or cannot be read.
    """
    return _from_pretrained(auto, checkpoint, compute)


def _check_type(checkpoint: str, compute: ComputeConfig, types: Collection[str]) -> None:
    if not types:
        return
    from transformers import AutoConfig

    found = _from_pretrained(AutoConfig, checkpoint, compute).model_type
    if found not in types:
        raise BackendError(f"{checkpoint} is a checkpoint of type {found!r}; this backend reads {', '.join(types)}")


def _from_pretrained(auto: Any, checkpoint: str, compute: ComputeConfig, **options: Any) -> Any:
    _check_place(checkpoint)
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bar would be drawn over the run's own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return auto.from_pretrained(checkpoint, local_files_only=not compute.download, **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError, SafetensorError) as error:
        raise BackendError(_refusal(checkpoint, compute, error)) from error


def _check_place(checkpoint: str) -> None:
    """Refuses a folder that is not there before the hub takes its path for an id."""
    path = Path(checkpoint)
    if checkpoint.startswith((".", "/", "~")) and not path.expanduser().is_dir():
        raise BackendError(f"no folder at {checkpoint}; name one made with save_pretrained, or a hub id")


def _refusal(checkpoint: str, compute: ComputeConfig, error: Exception) -> str:
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if Path(checkpoint).is_dir() or not isinstance(error, OSError):
        return f"cannot load {checkpoint}: {said}"
    if compute.download:
        return f"cannot fetch {checkpoint}: {said}; name a local folder, or check the network and HF_HUB_OFFLINE"
    return (
        f"{checkpoint} is not on this machine; name a local folder, or fetch it once with compute.download = true "
        "(HF_HUB_OFFLINE must then not be set)"
    )
