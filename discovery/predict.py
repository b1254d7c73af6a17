"""Samples × classifier → `predictions` of the audited photos."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier import Classifier, head_of, load_classifier
from discovery.backends.classifier_recorded import RecordedClassifier
from discovery.config import RunConfig
from discovery.images import map_ahead, read_image
from discovery.run import Run, Stage


def predict(views: Iterable[np.ndarray], classifier: Classifier, batch_size: int) -> np.ndarray:
    """Predicts views in batches.

    Args:
        views: what the model sees of each photo, (h, w, 3) uint8 (see `Classifier.view`).
        classifier: the model under audit.
        batch_size: views per forward pass.

    Returns:
        (n, c) float64 probabilities, in order.
    """
    waiting = iter(views)
    answers = []
    while batch := list(islice(waiting, batch_size)):
        answers.append(classifier.predict(batch))
    return np.concatenate(answers) if answers else np.empty((0, len(classifier.classes)))


def read_views(paths: Sequence[Path], classifier: Classifier, config: RunConfig) -> Iterator[np.ndarray]:
    """Decodes photos into views in the background, while the model computes."""

    def view(path: Path) -> np.ndarray:
        return classifier.view(read_image(path, max_pixels=config.dataset.max_pixels))

    return map_ahead(view, paths, ahead=2 * config.compute.batch_size)


def _work(run: Run, shard: int | None) -> pl.DataFrame:
    config = run.config
    classifier = load_classifier(config.model, config.compute, head_of(run.read("heads")))
    samples = run.read("samples", shard=shard).filter("audit")
    if isinstance(classifier, RecordedClassifier):
        return prediction_frame(samples, classifier.probs_of(samples), classifier.classes)
    paths = [Path(config.dataset.root) / uri for uri in samples["uri"]]
    probs = predict(read_views(paths, classifier, config), classifier, config.compute.batch_size)
    return prediction_frame(samples, probs, classifier.classes)


def prediction_frame(samples: pl.DataFrame, probs: np.ndarray, classes: tuple[str, ...]) -> pl.DataFrame:
    """Returns the table `predictions` of samples, from their (n, c) probabilities."""
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
