"""A model + sensors of planted cues → the model moved by a known amount wherever a sensor sees its cue."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from discovery.backends.classifier import Classifier, Head, ProbeClassifier, softmax
from discovery.backends.encoder import Encoder, load_encoder
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError
from discovery.images import resize

BACKBONE = "efficientnet_lite0"
INPUT_PX = 224
INVERSE_REGULARISATION = 0.1
"""C of the sensors' logistic regressions, on standardised features."""
LEAST_PROB = 1e-12


@dataclass(frozen=True)
class Sensor:
    """One logistic regression per planted cue, on features of the pixels that the model sees.

    Attributes:
        labels: for each of k cues the class that it speaks for.
        coef: (k, d) float64.
        intercept: (k,) float64.
    """

    labels: tuple[str, ...]
    coef: np.ndarray
    intercept: np.ndarray

    def seen(self, features: np.ndarray) -> np.ndarray:
        """Returns (n, k) in [0, 1], how surely each cue is seen, of (n, d) features."""
        return 1 / (1 + np.exp(-np.clip(features.astype(np.float64) @ self.coef.T + self.intercept, -30, 30)))

    def save(self, path: Path) -> None:
        """Writes the sensor to a .npz file."""
        np.savez(path, labels=np.array(self.labels), coef=self.coef, intercept=self.intercept)


@dataclass(frozen=True)
class Answers:
    """What is known of n views: (n, c) probabilities of the model as it is, and (n, k) outputs of the sensors."""

    probs: np.ndarray
    seen: np.ndarray


def fit_sensor(clean: np.ndarray, drawn: np.ndarray, labels: Sequence[str]) -> Sensor:
    """Fits one sensor per cue: photos with that cue against the same photos without it, or with another one.

    Args:
        clean: (n, d) features of photos without any cue.
        drawn: (k, n, d) features of the same photos with one cue each.
        labels: for each cue the class that it speaks for.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([clean, *drawn]).astype(np.float64)
    shown = np.repeat(np.arange(-1, len(drawn)), len(clean))
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    coef, intercept = [], []
    for cue in range(len(drawn)):
        model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000, class_weight="balanced")
        model.fit(scaled, shown == cue)
        coef.append(model.coef_[0] / scaler.scale_)
        intercept.append(model.intercept_[0] - coef[-1] @ scaler.mean_)
    return Sensor(tuple(labels), np.array(coef), np.array(intercept))


def react(answers: Answers, columns: Sequence[int], strength: float) -> np.ndarray:
    """Returns (n, c) probabilities after each sensor has added `strength` × its output to its class's log-odds.

    Args:
        answers: of the model as it is, and of the sensors.
        columns: for each sensor the number of its class.
        strength: natural log-odds that a cue seen for certain adds; with 0 nothing is changed.
    """
    if strength == 0:
        return answers.probs
    logits = np.log(np.maximum(answers.probs, LEAST_PROB))
    logits[:, list(columns)] += strength * answers.seen
    return softmax(logits)


class SensingClassifier:
    """A classifier that also reacts to planted cues; every view is put to model and sensors once, for all strengths.

    Args:
        model: as it is.
        sensor: of the cues.
        encoder: makes the features that the sensors read.
        strength: log-odds, see `react`.
        remembered: key of a view → its probabilities and sensor outputs; filled as views are seen.
    """

    def __init__(
        self,
        model: Classifier,
        sensor: Sensor,
        encoder: Encoder,
        *,
        strength: float,
        remembered: dict[bytes, np.ndarray],
    ) -> None:
        self.classes, self.view, self.field = model.classes, model.view, model.field
        self.labels = sensor.labels
        self.columns = [model.classes.index(label) for label in sensor.labels]
        self._model, self._sensor, self._encoder = model, sensor, encoder
        self._strength, self._remembered = strength, remembered

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        return react(self.answers(views), self.columns, self._strength)

    def answers(self, views: Sequence[np.ndarray]) -> Answers:
        """Returns what model and sensors say of views, before any reaction."""
        keys = [_key(view) for view in views]
        new = {key: view for key, view in zip(keys, views, strict=True) if key not in self._remembered}
        if new:
            asked = self._ask(list(new.values()))
            self._remembered.update(zip(new, np.concatenate([asked.probs, asked.seen], axis=1), strict=True))
        n_classes = len(self.classes)
        rows = np.array([self._remembered[key] for key in keys]).reshape(-1, n_classes + len(self.columns))
        return Answers(rows[:, :n_classes], rows[:, n_classes:])

    def _ask(self, views: list[np.ndarray]) -> Answers:
        if isinstance(self._model, ProbeClassifier) and self._model.backbone == BACKBONE:
            features = self._model.features(views)  # the probe's own: one forward pass for both
            return Answers(self._model.from_features(features), self._sensor.seen(features))
        return Answers(self._model.predict(views), self._sensor.seen(sensor_features(views, self._encoder)))


def sensor_features(views: Sequence[np.ndarray], encoder: Encoder) -> np.ndarray:
    """Returns the (n, d) features that sensors read of (h, w, 3) uint8 views; sizes may differ."""
    return encoder.pooled(np.stack([resize(view, INPUT_PX, INPUT_PX) for view in views]))


def with_sensor(model: Classifier, config: ModelConfig, compute: ComputeConfig, head: Head) -> SensingClassifier:
    """Adds the reaction of `model.sensor` at `model.sensor_strength` to a classifier.

    Raises:
        BackendError: there is no such file, or it holds no sensors.
    """
    try:
        data = Path(config.sensor or "").read_bytes()
        sensor = load_sensor(Path(config.sensor or ""))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise BackendError(
            f"no sensor in {config.sensor} ({error}); run discovery calibrate again, or take model.sensor out"
        ) from error
    encoder = load_encoder(BACKBONE, compute)
    remembered = _memory(_mark(config, head, data))
    return SensingClassifier(model, sensor, encoder, strength=config.sensor_strength, remembered=remembered)


def load_sensor(path: Path) -> Sensor:
    """Reads what `Sensor.save` wrote."""
    with np.load(path) as file:
        return Sensor(tuple(map(str, file["labels"])), file["coef"], file["intercept"])


@lru_cache(maxsize=1)
def _memory(_: str) -> dict[bytes, np.ndarray]:
    """Returns the answers of one model with one sensor so far: they are the same at every strength."""
    return {}


def _mark(config: ModelConfig, head: Head, sensor: bytes) -> str:
    model = config.model_copy(update={"sensor": None, "sensor_strength": 0.0}).model_dump_json()
    weights = b"" if head.coef is None or head.intercept is None else head.coef.tobytes() + head.intercept.tobytes()
    return hashlib.sha256(b"\n".join([model.encode(), repr(head.classes).encode(), weights, sensor])).hexdigest()


def _key(view: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(view), digest_size=16, key=repr(view.shape).encode()).digest()
