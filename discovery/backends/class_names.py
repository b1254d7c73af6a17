"""The model under audit → its class names in output order, in the words of the dataset where both mean the same."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import DataError


def class_names(config: ModelConfig, compute: ComputeConfig, labels: Collection[str]) -> tuple[str, ...]:
    """Returns a model's classes: those that the configuration lists, else its own, else the sorted labels.

    Args:
        config: of the model.
        compute: whether a checkpoint may be fetched.
        labels: of the photos.

    Raises:
        DataError: a label fits two classes of the model.
    """
    if config.classes:
        return config.classes
    if config.kind not in OWN_NAMES:
        return tuple(sorted(labels))
    own = OWN_NAMES[config.kind](config, compute)
    return match_labels(own, labels) if own else tuple(sorted(labels))


def match_labels(own: Sequence[str], labels: Collection[str]) -> tuple[str, ...]:
    """Renames a model's classes by the labels that mean them.

    A label means a class by its whole name, else by one of its names between commas ("tench, Tinca tinca"); case, and
    what parts words, do not count. The other classes keep their names, with their number where two are the same.

    Args:
        own: c names in output order.
        labels: of the photos.

    Raises:
        DataError: a label fits two classes.
    """
    whole = [_plain(name) for name in own]
    parts = [{_plain(part) for part in name.split(",")} for name in own]
    taken: dict[int, str] = {}
    for label in sorted(labels):
        plain = _plain(label)
        fits = [i for i, name in enumerate(whole) if name == plain]
        fits = fits or [i for i, names in enumerate(parts) if plain in names]
        if len(fits) > 1 or (fits and fits[0] in taken):
            other = taken.get(fits[0]) or ", ".join(own[i] for i in fits)
            raise DataError(
                f"label {label!r} fits more than one class or shares it ({other}); rename the folder, "
                "or list model.classes in the model's output order"
            )
        if fits:
            taken[fits[0]] = label
    counts = Counter(own) + Counter(labels)
    return tuple(taken.get(i) or (name if counts[name] == 1 else f"{name} #{i}") for i, name in enumerate(own))


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_\-]+", name.strip().casefold()))


def _hf(config: ModelConfig, compute: ComputeConfig) -> tuple[str, ...]:
    from discovery.backends.classifier_hf import own_names

    return own_names(config, compute)


def _timm(config: ModelConfig, _: ComputeConfig) -> tuple[str, ...]:
    from discovery.backends.classifier_timm import own_names

    return own_names(config)


def _ultralytics(config: ModelConfig, _: ComputeConfig) -> tuple[str, ...]:
    from discovery.backends.classifier_ultralytics import own_names

    return own_names(config)


def _clip_zero_shot(config: ModelConfig, _: ComputeConfig) -> tuple[str, ...]:
    return tuple(config.prompts)


def _predictions(config: ModelConfig, _: ComputeConfig) -> tuple[str, ...]:
    from discovery.backends.classifier_recorded import own_names

    return own_names(config)


OWN_NAMES: dict[str, Callable[[ModelConfig, ComputeConfig], tuple[str, ...]]] = {
    "hf": _hf,
    "timm": _timm,
    "ultralytics": _ultralytics,
    "clip_zero_shot": _clip_zero_shot,
    "predictions": _predictions,
}
"""Kinds whose model knows the names of its classes; none of them may know none."""
