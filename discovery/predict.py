"""Samples × classifier → `predictions` of the audited photos."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier import Classifier, head_of, load_classifier
from discovery.images import decode_batches
from discovery.run import Run, Stage


def predict(batches: Iterable[Sequence[np.ndarray]], classifier: Classifier) -> np.ndarray:
    """Predicts batches of decoded photos.

    Args:
        batches: of (H, W, 3) uint8 RGB images.
        classifier: the model under audit.

    Returns:
        (n, c) float64 probabilities, in order.
    """
    answers = [classifier.predict([classifier.view(image) for image in batch]) for batch in batches]
    return np.concatenate(answers) if answers else np.empty((0, len(classifier.classes)))


def _work(run: Run, shard: int | None) -> pl.DataFrame:
    config = run.config
    classifier = load_classifier(config.model, config.compute, head_of(run.read("heads")))
    samples = run.read("samples", shard=shard).filter("audit")
    paths = [Path(config.dataset.root) / uri for uri in samples["uri"]]
    batches = decode_batches(paths, config.compute.batch_size, max_pixels=config.dataset.max_pixels)
    return _frame(samples, predict(batches, classifier), classifier.classes)


def _frame(samples: pl.DataFrame, probs: np.ndarray, classes: tuple[str, ...]) -> pl.DataFrame:
    index = {name: i for i, name in enumerate(classes)}
    own = np.array([index[label] for label in samples["label"]], np.int64)
    best = probs.argmax(axis=1) if len(probs) else own
    return pl.DataFrame(
        {
            "sample_id": samples["sample_id"],
            "predicted": [classes[i] for i in best],
            "probs": pl.Series(probs.tolist(), dtype=pl.List(pl.Float32)),
            "prob_label": probs[np.arange(len(own)), own],
            "correct": best == own,
        },
        schema_overrides={"predicted": pl.String},
    )


STAGE = Stage(
    name="predict",
    table="predictions",
    inputs=("samples", "heads"),
    config=lambda config: (config.model, config.dataset.root),
    work=_work,
    sharded=True,
)
