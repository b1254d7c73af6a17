"""A transformers image classifier, or a timm model in a hub-style folder → the model under audit."""

from discovery.backends.checkpoint import load_model, load_processor
from discovery.backends.last_linear import NetClassifier
from discovery.backends.preprocessing import Preprocessing
from discovery.backends.roles import Head
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError


def load_hf(config: ModelConfig, compute: ComputeConfig, head: Head) -> NetClassifier:
    """Loads `model.path` with AutoModelForImageClassification; it sees photos through its own image processor.

    Raises:
        BackendError: it is not here, is no image classifier, or answers several questions at once.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    source = config.path or ""
    model = load_model(AutoModelForImageClassification, source, compute)
    if getattr(model.config, "problem_type", None) == "multi_label_classification":
        raise BackendError(
            f"{source} gives several labels per photo; audit it as kind 'python', one class against rest"
        )
    sight = Preprocessing(load_processor(AutoImageProcessor, source, compute), source)
    return NetClassifier(
        model, lambda batch: model(pixel_values=batch).logits, sight, classes=head.classes, source=source
    )


def own_names(config: ModelConfig, compute: ComputeConfig) -> tuple[str, ...]:
    """Returns the names in a checkpoint's id2label; none where it holds placeholders alone."""
    from transformers import AutoConfig

    names = load_processor(AutoConfig, config.path or "", compute).id2label
    ordered = [str(names[i]) for i in sorted(names)]
    return () if all(name == f"LABEL_{i}" for i, name in enumerate(ordered)) else tuple(ordered)
