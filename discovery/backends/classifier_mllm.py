"""Images → class probabilities of a multimodal LLM, which is asked about each class, or for one of all."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from discovery.backends.mllm_questions import Answer, Query, Question, choice_questions, presence_questions
from discovery.backends.roles import Head, softmax
from discovery.config import ComputeConfig, MllmConfig, ModelConfig
from discovery.images import resize
from discovery.stats import PROB_FLOOR, logit

SMOOTHING = 0.5
"""Added to yes and to no where there are bare answers: "yes" twice out of two is no certainty."""
TIE = 1e-6
"""Log-odds by which equal classes are parted, at random by photo."""


class Mllm(Protocol):
    """A multimodal LLM that is asked about photos.

    Attributes:
        drops_tokens: it can answer without the visual tokens of a part of the photo (`Query.hidden`).
        n_calls: questions that were put to it so far; what a cache knew is not counted.
    """

    drops_tokens: bool
    n_calls: int

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """Returns the answers, in order."""


class MllmClassifier:
    """The probability that a class is the one that is there, given that one of them is.

    Each yes/no question is taken as independent of the others, so p(class) = odds(yes, class) / Σ odds(yes, ·): the
    log-odds of a class move by exactly what its own yes/no question moves. A view is the whole photo.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, head: Head) -> None:
        self.classes = head.classes
        self._config = config.mllm
        self._mllm = load_mllm(config.mllm, compute)
        self._questions = run_questions(config.mllm, head.classes)

    def view(self, image: np.ndarray) -> np.ndarray:
        """Returns the whole photo, shrunk to `model.mllm.side_px`."""
        return shrink(image, self._config.side_px)

    def field(self, height_px: int, width_px: int) -> np.ndarray:
        """Returns the whole image."""
        return np.array([0, 0, width_px, height_px], np.float32)

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        queries = [Query(view, question) for view in views for question in self._questions]
        answers = self._mllm.answer(queries)
        n = len(self._questions)
        rows = [self._row(view, answers[i * n : (i + 1) * n]) for i, view in enumerate(views)]
        return np.array(rows, np.float64).reshape(len(views), len(self.classes))

    def _row(self, view: np.ndarray, answers: Sequence[Answer]) -> np.ndarray:
        asked = list(zip(self._questions, answers, strict=True))
        if self._config.ask == "choice":
            scores = choice_log_probs(asked, self.classes)
        else:
            per = len(self._questions) // len(self.classes)
            scores = np.array([yes_logit(asked[i * per : (i + 1) * per]) for i in range(len(self.classes))])
        jitter = np.random.default_rng(_seed(view)).uniform(0, TIE, len(scores))
        return softmax((scores + jitter)[None])[0]


def load_mllm(config: MllmConfig, compute: ComputeConfig) -> Mllm:
    """Loads a multimodal LLM, local or at a server.

    Raises:
        BackendError: its checkpoint or its server is not there.
    """
    if config.checkpoint is None:
        from discovery.backends.mllm_api import ServedMllm

        return ServedMllm(config)
    from discovery.backends.mllm_local import LocalMllm

    return LocalMllm(config, compute)


def run_questions(config: MllmConfig, classes: Sequence[str]) -> list[Question]:
    """Returns the questions that are put about every view in predict and ablate, class by class."""
    if config.ask == "choice":
        return choice_questions(classes, config.choice, config.choice_orders)
    wordings = config.wordings[: config.run_wordings]
    return [question for name in classes for question in presence_questions(name, wordings)]


def yes_logit(asked: Sequence[tuple[Question, Answer]]) -> float:
    """Returns the log-odds of yes over the answers to one class's questions.

    Token probabilities: the mean of their log-odds. Bare answers: log((yes + ½) / (no + ½)). An unclear answer says
    neither; when all are unclear the log-odds are 0.
    """
    clear = [(answer.prob(question, "yes"), answer.measured) for question, answer in asked if answer.probs is not None]
    if not clear:
        return 0.0
    probs = np.array([prob for prob, _ in clear])
    if all(measured for _, measured in clear):
        return float(logit(probs).mean())
    yes = probs.sum()
    return float(np.log(yes + SMOOTHING) - np.log(len(probs) - yes + SMOOTHING))


def choice_log_probs(asked: Sequence[tuple[Question, Answer]], classes: Sequence[str]) -> np.ndarray:
    """Returns (classes,) log-probabilities over the orders of a multiple-choice question, not normalised.

    Token probabilities: the mean of their logarithms. Bare answers: log(times chosen + ½). Unclear answers say nothing.
    """
    clear = [(question, answer) for question, answer in asked if answer.probs is not None]
    if not clear:
        return np.zeros(len(classes))
    probs = np.array([[answer.prob(question, name) for name in classes] for question, answer in clear])
    if all(answer.measured for _, answer in clear):
        return np.log(np.clip(probs, PROB_FLOOR, 1)).mean(axis=0)
    return np.log(probs.sum(axis=0) + SMOOTHING)


def shrink(image: np.ndarray, side_px: int) -> np.ndarray:
    """Returns an image whose longer side has at most `side_px` pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    return np.ascontiguousarray(resize(image, max(1, round(height * scale)), max(1, round(width * scale))))


def _seed(view: np.ndarray) -> list[int]:
    return list(hashlib.sha256(view.tobytes()).digest()[:16])
