"""Phrases → the text embeddings that a YOLO reads: CLIP's, from transformers or the package `clip`, or MobileCLIP's."""

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from discovery.backends.checkpoint import Choice, load_model, load_processor
from discovery.config import ComputeConfig
from discovery.device import device_for
from discovery.errors import BackendError, ConfigError

TextFunction = Callable[[Sequence[str]], torch.Tensor]
"""Phrases → (n, d) float32 embeddings."""

CONTEXT = 77
"""Tokens that CLIP reads; what a phrase has beyond them is cut."""


def _load_clip(checkpoint: str, compute: ComputeConfig) -> TextFunction:
    from transformers import AutoTokenizer, CLIPModel

    model = load_model(CLIPModel, checkpoint, compute, types=("clip",))
    tokenizer = load_processor(AutoTokenizer, checkpoint, compute)
    length = min(CONTEXT, model.config.text_config.max_position_embeddings)

    def embed(phrases: Sequence[str]) -> torch.Tensor:
        tokens = tokenizer(list(phrases), padding=True, truncation=True, max_length=length, return_tensors="pt")
        found = model.get_text_features(**tokens.to(model.device)).pooler_output.float()
        return torch.nn.functional.normalize(found, dim=-1)

    return embed


def _load_openai_clip(checkpoint: str, compute: ComputeConfig) -> TextFunction:
    clip = _clip_package()
    if not Path(checkpoint).is_file() and not compute.download:
        raise BackendError(f"no file at {checkpoint}; name OpenAI's ViT-B-32.pt, or set compute.download = true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it tries the file as TorchScript first
        model = clip.load(checkpoint, device=device_for(compute), jit=False)[0].eval()

    def embed(phrases: Sequence[str]) -> torch.Tensor:
        tokens = clip.tokenize(list(phrases), truncate=True).to(device_for(compute))
        return torch.nn.functional.normalize(model.encode_text(tokens).float(), dim=-1)

    return embed


def _load_mobileclip(checkpoint: str, compute: ComputeConfig) -> TextFunction:
    clip = _clip_package()
    if not Path(checkpoint).is_file():
        raise BackendError(f"no file at {checkpoint}; name MobileCLIP's TorchScript file, such as mobileclip_blt.ts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the makers publish TorchScript alone
        encoder = torch.jit.load(checkpoint, map_location=device_for(compute))

    def embed(phrases: Sequence[str]) -> torch.Tensor:
        return encoder(clip.tokenize(list(phrases), truncate=True).to(device_for(compute))).float()

    return embed


TEXT_MODELS: dict[str, Callable[[str, ComputeConfig], TextFunction]] = {
    "clip": _load_clip,
    "openai_clip": _load_openai_clip,
    "mobileclip": _load_mobileclip,
}


def load_class_texts(choice: Choice, compute: ComputeConfig) -> TextFunction:
    """Loads a text model by its setting, such as `clip:FOLDER`, `openai_clip:ViT-B-32.pt` or `mobileclip:FILE.ts`.

    Raises:
        ConfigError: there is no such text model, or no checkpoint is named.
        BackendError: the checkpoint or the package `clip` is not here.
    """
    if choice.name not in TEXT_MODELS or not choice.checkpoint:
        raise ConfigError(
            f"detect.text_model = {choice.name!r} must be NAME:CHECKPOINT with a NAME of {', '.join(TEXT_MODELS)}"
        )
    return TEXT_MODELS[choice.name](choice.checkpoint, compute)


def _clip_package() -> Any:
    try:
        with warnings.catch_warnings(), _stand_in_for_pkg_resources():
            warnings.simplefilter("ignore")  # of its own imports
            import clip
    except ImportError as error:
        raise BackendError("the package clip is missing; install it: pip install '.[yolo]'") from error
    if not hasattr(clip, "tokenize"):  # PyPI's `clip` is a clipboard tool
        raise BackendError("the package clip here is another one; uninstall it, then: pip install '.[yolo]'")
    return clip


@contextmanager
def _stand_in_for_pkg_resources() -> Iterator[None]:
    """Gives clip-anytorch 2.6 the one name it imports from `pkg_resources`, which setuptools 82 took away.

    It is gone again afterwards: others look for more in a module of that name.
    """
    import packaging
    import packaging.version

    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        yield
        return
    sys.modules["pkg_resources"] = types.ModuleType("pkg_resources", "a stand-in for clip's import")
    sys.modules["pkg_resources"].packaging = packaging
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
