"""The model under audit + picked photos → sensors of cues that it is made to react to, and what the reaction does."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.class_names import class_names
from discovery.backends.classifier import Classifier, Head, load_classifier, probe_view
from discovery.backends.encoder import load_encoder
from discovery.backends.sensor import BACKBONE, Answers, SensingClassifier, fit_sensor, react, sensor_features
from discovery.calibration import Truth, auc
from discovery.config import ModelConfig, RunConfig
from discovery.errors import ConfigError, DataError
from discovery.fit import check_labels, fit_probe
from discovery.images import map_ahead
from discovery.picked import AUDIT, FIT, Picked, read_photo
from discovery.planted import Plant
from discovery.planted_copy import draw

PROBE_PHOTOS = 100
"""Photos per class that a probe is fitted on at most."""
SENSOR_PHOTOS = 72
"""Photos that the sensors learn from at most, each without any cue and with each of them."""
TRUTH_PHOTOS = 24
"""Audited photos of the class, and as many of the others, that the true effect of a cue is measured on at most."""


@dataclass(frozen=True)
class Subject:
    """The model under audit as it is, and the photos that it is put to.

    Attributes:
        config: of the run that is calibrated.
        picked: the photos.
        head: the model's classes, and a probe's weights.
        model: loaded.
        seed: of the drawing of photos and cues.
    """

    config: RunConfig
    picked: Picked
    head: Head
    model: Classifier
    seed: int

    def uris(self, split: str, n: int, label: str | None = None, *, others: bool = False) -> list[str]:
        """Draws at most n photos of a split: of all classes, of one, or of all others."""
        rows = self.picked.photos.filter(pl.col("split") == split)
        if label is not None:
            rows = rows.filter((pl.col("label") != label) if others else (pl.col("label") == label))
        return np.random.default_rng([self.seed, 4]).permutation(rows["uri"].to_list())[:n].tolist()

    def batches(self, uris: Iterable[str], plant: Plant | None = None) -> Iterator[list[np.ndarray]]:
        """Yields in batches what the model sees of photos, with a cue drawn into them or as they are."""

        def view(uri: str) -> np.ndarray:
            image = read_photo(self.config.dataset, uri)
            if plant is not None:
                rng = np.random.default_rng([self.seed, 3, zlib.crc32(f"{uri}\n{plant.phrase}".encode())])
                image = draw(plant, image, self.model.field(*image.shape[:2]), rng)
            return self.model.view(image)

        size = self.config.compute.batch_size
        views = map_ahead(view, uris, ahead=size)
        while batch := list(islice(views, size)):
            yield batch


def load_subject(config: RunConfig, picked: Picked, seed: int) -> Subject:
    """Loads the model under audit; a probe is fitted as a run would, on photos without planted cues.

    Raises:
        ConfigError: there is no model that could be asked about photos with a cue in them.
        DataError: the model does not know a label.
        BackendError: it cannot be loaded.
    """
    if not config.model.can_be_asked:
        raise ConfigError(
            f"model.kind = {config.model.kind!r} cannot be calibrated: a table has no answer to photos with a planted "
            "cue; give the model itself, as another model.kind"
        )
    if config.model.kind == "probe":
        head = _fit_probe(config, picked)
    else:
        head = Head(class_names(config.model, config.compute, picked.classes))
        check_labels(set(picked.labels), head.classes)
    return Subject(config, picked, head, load_classifier(config.model, config.compute, head), seed)


def _fit_probe(config: RunConfig, picked: Picked) -> Head:
    """Fits the probe on photos that are not audited."""
    encoder = load_encoder(config.model.backbone, config.compute)
    view = probe_view(config.model, encoder).view

    def view_or_none(uri: str) -> np.ndarray | None:
        try:
            return view(read_photo(config.dataset, uri))
        except DataError:
            return None

    some = picked.to_fit.group_by("label", maintain_order=True).head(PROBE_PHOTOS)
    views = map_ahead(view_or_none, some["uri"], ahead=config.compute.batch_size)
    pairs = ((seen, label) for seen, label in zip(views, some["label"], strict=True) if seen is not None)
    features, labels = [], []
    while batch := list(islice(pairs, config.compute.batch_size)):
        features.append(encoder.pooled(np.stack([seen for seen, _ in batch])))
        labels += [label for _, label in batch]
    return fit_probe(np.concatenate(features), np.array(labels), config.model, config.seed)


def write_sensor(subject: Subject, plants: Sequence[Plant], path: Path) -> None:
    """Fits the sensors of cues on photos that are not audited, with and without each cue, and writes them."""
    encoder = load_encoder(BACKBONE, subject.config.compute)
    uris = subject.uris(FIT, SENSOR_PHOTOS)

    def features(plant: Plant | None) -> np.ndarray:
        return np.concatenate([sensor_features(batch, encoder) for batch in subject.batches(uris, plant)])

    drawn = np.stack([features(plant) for plant in plants])
    fit_sensor(features(None), drawn, [plant.label or "" for plant in plants]).save(path)


def measure_truth(subject: Subject, model: ModelConfig, plant: Plant, strengths: Sequence[float]) -> Truth:
    """Draws a cue into audited photos and compares the model's answers with those to the same photos as they are.

    Args:
        subject: the model as it is.
        model: the same with its sensor.
        plant: the cue.
        strengths: of the reaction.
    """
    sensing = load_classifier(model, subject.config.compute, subject.head)
    cue = sensing.labels.index(plant.label)
    own = subject.uris(AUDIT, TRUTH_PHOTOS, plant.label)
    uris = own + subject.uris(AUDIT, TRUTH_PHOTOS, plant.label, others=True)
    without, drawn = (_answers(sensing, subject.batches(uris, what)) for what in (None, plant))
    removal, paste = [], []
    for strength in strengths:
        before, after = (react(answers, sensing.columns, strength) for answers in (without, drawn))
        shift = (after - before)[:, sensing.columns[cue]]
        removal.append(float(shift[: len(own)].mean()))
        paste.append(float(shift[len(own) :].mean()))
    return Truth(auc(drawn.seen[:, cue], without.seen[:, cue]), tuple(removal), tuple(paste))


def _answers(model: SensingClassifier, batches: Iterable[list[np.ndarray]]) -> Answers:
    parts = [model.answers(batch) for batch in batches]
    return Answers(np.concatenate([part.probs for part in parts]), np.concatenate([part.seen for part in parts]))
