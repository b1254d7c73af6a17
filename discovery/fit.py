"""Samples × backbone → `heads`: the probe's linear layer, or the class names of a model that has its own."""

from pathlib import Path

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from discovery.backends.class_names import class_names
from discovery.backends.classifier import Head, model_state, probe_view
from discovery.backends.encoder import Encoder, load_encoder
from discovery.config import ModelConfig, RunConfig
from discovery.errors import DataError
from discovery.images import decode_batches
from discovery.run import Run, Stage


def fit_probe(features: np.ndarray, labels: np.ndarray, config: ModelConfig, seed: int = 0) -> Head:
    """Fits a logistic regression on frozen features.

    Args:
        features: (n, d) float, not normalised.
        labels: (n,) class names.
        config: its `inverse_regularisation` is C, for standardised features.
        seed: of the solver.

    Returns:
        The head, with standardisation folded into its weights.
    """
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=config.inverse_regularisation, max_iter=1000, random_state=seed)
    model.fit(scaler.transform(features).astype(np.float64), labels)
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    coef = coef / scaler.scale_
    return Head(tuple(map(str, model.classes_)), coef, intercept - coef @ scaler.mean_)


def check_labels(labels: set[str], classes: tuple[str, ...]) -> None:
    """Raises DataError when a photo has a label that the model does not know."""
    unknown = sorted(labels - set(classes))
    if unknown:
        raise DataError(
            f"the model does not know {len(unknown)} of the labels: {', '.join(unknown[:5])}; it knows "
            f"{', '.join(sorted(classes)[:8])}; rename the folders, or set model.classes in the model's output order"
        )


def _work(run: Run, _: int | None) -> pl.DataFrame:
    config, samples = run.config, run.read("samples", columns=["uri", "label", "audit"])
    known = set(samples["label"])
    if config.model.kind != "probe":
        classes = class_names(config.model, config.compute, known)
        check_labels(known, classes)
        return head_frame(Head(classes))
    to_fit = samples.filter(~pl.col("audit"))
    missing = sorted(known - set(to_fit["label"]))
    if missing:
        raise DataError(
            f"no photo of {', '.join(missing[:5])} is left to fit the probe on; "
            "add some to the fit split or lower dataset.holdout_frac"
        )
    encoder = load_encoder(config.model.backbone, config.compute)
    features = _features(config, encoder, to_fit["uri"].to_list())
    return head_frame(fit_probe(features, to_fit["label"].to_numpy(), config.model, config.seed))


def _features(config: RunConfig, encoder: Encoder, uris: list[str]) -> np.ndarray:
    view = probe_view(config.model, encoder).view
    paths = [Path(config.dataset.root) / uri for uri in uris]
    batches = decode_batches(paths, config.compute.batch_size, max_pixels=config.dataset.max_pixels)
    return np.concatenate([encoder.pooled(np.stack([view(image) for image in batch])) for batch in batches])


def head_frame(head: Head) -> pl.DataFrame:
    """Writes a head as the table `heads`; weights that it does not have are null."""
    n = len(head.classes)
    return pl.DataFrame(
        {
            "class_name": list(head.classes),
            "intercept": [None] * n if head.intercept is None else head.intercept.tolist(),
            "coef": [None] * n if head.coef is None else head.coef.tolist(),
            "gate": [None] * n if head.gate is None else head.gate.tolist(),
        },
        schema={"class_name": pl.String, "intercept": pl.Float64}
        | dict.fromkeys(("coef", "gate"), pl.List(pl.Float64)),
    )


STAGE = Stage(
    name="fit",
    table="heads",
    inputs=("samples",),
    config=lambda config: (config.model, config.dataset.root),
    work=_work,
    outside=lambda config: model_state(config.model),
)
