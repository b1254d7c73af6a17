"""Classes and a configuration → how many calls, tokens and how much money a language model's proposals would take."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from discovery.backends.llm_budget import Cost, tokens_of
from discovery.backends.llm_cache import Cache
from discovery.backends.llm_client import Question, question_hash
from discovery.backends.llm_questions import cue_questions, judge_question
from discovery.backends.proposer import Note
from discovery.config import ProposeConfig

LONG_PHRASE = "a phrase of five words"
LONG_NOTE = "a note of the usual length on what one photo shows"


@dataclass(frozen=True)
class Estimate:
    """What a step would cost.

    Attributes:
        expected: calls and tokens, if answers are as long as usual and none has to be repaired.
        at_most: the same, if every answer is as long as it may be; with repairs it may be up to three times as much.
        on_disk: questions answered already, which are in neither; None where that depends on other answers.
    """

    expected: Cost
    at_most: Cost
    on_disk: int | None


def estimate(
    labels: Sequence[str], config: ProposeConfig, known: Sequence[str], cache: str | None
) -> dict[str, Estimate]:
    """Estimates the cost of proposals without a key, a server or a photo.

    Args:
        labels: the classes.
        config: of the proposer.
        known: phrases that the model is told detectors know.
        cache: folder of answers.

    Returns:
        Step → its estimate: questions, and filters if they are asked.
    """
    asked = [question for label in labels for question in _questions(label, config, known)]
    # With photos or notes the question itself is known only when they are read.
    exact = not config.show_photos and config.evidence == "none"
    kept = Cache(cache if exact else None)
    new = [question for question in asked if kept.get(question_hash(str(config.llm), question)) is None]
    steps = {"questions": Estimate(_cost(new, 0.5), _cost(new, 1.0), len(asked) - len(new) if exact else None)}
    if config.judge:
        n = len(config.questions) * config.phrases_per_question
        sizes = [min(config.judged_at_once, n - start) for start in range(0, n, config.judged_at_once)]
        filters = [judge_question(label, [LONG_PHRASE] * size) for label in labels for size in sizes]
        steps["filters"] = Estimate(_cost(filters, 0.5), _cost(filters, 1.0), None)
    return steps


def _questions(label: str, config: ProposeConfig, known: Sequence[str]) -> list[Question]:
    blank = [np.zeros((8, 8, 3), np.uint8)] * config.show_photos
    told = 0 if config.evidence == "none" else config.evidence_photos
    notes = [Note(LONG_NOTE, correct) for correct in (True, False) for _ in range(told)]
    return list(cue_questions(label, config, blank, notes, known).values())


def _cost(questions: Sequence[Question], share: float) -> Cost:
    """Returns calls and tokens, where answers take a share of their greatest length."""
    tokens_in = sum(tokens_of(question.messages) for question in questions)
    tokens_out = sum(round(share * question.max_tokens) for question in questions)
    return Cost(asked=len(questions), calls=len(questions), tokens_in=tokens_in, tokens_out=tokens_out)
