"""Classes → neutral questions to a multimodal LLM, and its words or token probabilities → an answer or "unclear"."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from discovery.errors import BackendError

YES_NO = ("yes", "no")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.S)
_DRESSING = " \t\r\n*_`\"'“”‘’«»([{#>"
"""What may stand before an answer without changing it: blanks, Markdown, quotes, brackets."""
_ENDED = r"(?=[ \t]*(?:$|[\n.,:;!?)\]}*_`\"'”’»。]| [-–—]))(?!'\w)"


@dataclass(frozen=True)
class Question:
    """One question about any photo, in one wording and one order of its answers.

    Attributes:
        text: what is asked; it names classes and never a cue.
        options: the answers that count, in the order in which they are offered.
        meaning: what each option stands for: yes or no, or a class.
        wording: number of the wording, from 0.
        order: number of the order of the answers, from 0.
    """

    text: str
    options: tuple[str, ...]
    meaning: tuple[str, ...]
    wording: int
    order: int


@dataclass(frozen=True)
class Query:
    """A question about a photo.

    Attributes:
        image: (H, W, 3) uint8.
        question: what is asked.
        hidden: (H, W) bool, the part whose visual tokens are dropped; None for nothing.
    """

    image: np.ndarray
    question: Question
    hidden: np.ndarray | None = None


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: the model's own words, or its likeliest token.
        probs: (options,) float64 that sum to one, in the question's order; None where the answer is unclear.
        measured: True for token probabilities, False for a bare answer, whose option has all of it.
    """

    text: str
    probs: np.ndarray | None
    measured: bool

    def prob(self, question: Question, meaning: str) -> float | None:
        """Returns the probability of what an option stands for; None where the answer is unclear."""
        return None if self.probs is None else float(self.probs[question.meaning.index(meaning)])


def presence_questions(label: str, wordings: Sequence[str], *, both_orders: bool = True) -> list[Question]:
    """Returns yes/no questions about a class: every wording with either answer named first.

    Args:
        label: the class; `_` reads as a space.
        wordings: texts in which `{label}` stands for the class and `{a_label}` for it with its article.
        both_orders: else only "yes or no".
    """
    orders = (YES_NO, YES_NO[::-1]) if both_orders else (YES_NO,)
    return [
        Question(f"{_fill(text, label)} Answer {first} or {second}.", (first, second), (first, second), number, turn)
        for (number, text), (turn, (first, second)) in product(enumerate(wordings), enumerate(orders))
    ]


def choice_questions(classes: Sequence[str], text: str, orders: int) -> list[Question]:
    """Returns one multiple-choice question in rotated orders, so that no option keeps the first place.

    With as many orders as classes each class stands in each place once.

    Raises:
        BackendError: there are more classes than letters.
    """
    n = len(classes)
    if n > len(LETTERS):
        raise BackendError(f"a choice among {n} classes has no letters for them; set model.mllm.ask = 'each'")
    made = []
    for turn in range(min(orders, n)):
        shift = turn * n // min(orders, n)
        named = (*classes[shift:], *classes[:shift])
        lines = [f"{letter}. {_spoken(name)}" for letter, name in zip(LETTERS, named, strict=False)]
        asked = "\n".join([text, *lines, "Answer with the letter of one option."])
        made.append(Question(asked, LETTERS[:n], named, 0, turn))
    return made


def read_answer(text: str, options: Sequence[str]) -> int | None:
    """Returns which option an answer is; None when it is not clearly one.

    The answer must begin with the option as a whole word that ends there or before a punctuation mark, and no other
    option may stand in it in that way. So "Yes, there is." is yes; "I know", "No doubt it is", "yes and no" and
    "No, wait, yes." are unclear. A letter must be a capital: "a dog" is no answer A.
    """
    said = unicodedata.normalize("NFKC", _THOUGHT.sub("", text)).lstrip(_DRESSING)
    flags = 0 if all(option in LETTERS for option in options) else re.IGNORECASE
    found = [_places(option, said, flags) for option in options]
    first = [number for number, places in enumerate(found) if 0 in places]
    others = [number for number, places in enumerate(found) if places and number not in first]
    return first[0] if len(first) == 1 and not others else None


def from_text(text: str, options: Sequence[str]) -> Answer:
    """Reads a bare answer."""
    at = read_answer(text, options)
    return Answer(text, None if at is None else np.eye(len(options))[at], measured=False)


def from_tokens(text: str, tokens: dict[str, float], options: Sequence[str], min_mass: float) -> Answer:
    """Reads the probabilities of the first token; an option that is not among them has at most the smallest of them.

    Args:
        text: the model's own words.
        tokens: token → probability, the likeliest only; variants such as "Yes", "yes" and " yes" are added up.
        options: the answers that count.
        min_mass: with less probability on all options together the answer is unclear.
    """
    mass = np.zeros(len(options))
    for token, prob in tokens.items():
        if (at := option_of(token, options)) is not None:
            mass[at] += prob
    if mass.sum() > 0:
        mass[mass == 0] = max(0.0, min(*tokens.values(), 1 - sum(tokens.values())))
    return from_mass(text, mass, min_mass)


def from_mass(text: str, mass: np.ndarray, min_mass: float) -> Answer:
    """Returns (options,) probabilities as an answer; unclear below a sum of `min_mass`, or of nothing."""
    total = float(mass.sum())
    return Answer(text, mass / total if total > max(min_mass, 0.0) else None, measured=True)


def option_of(token: str, options: Sequence[str]) -> int | None:
    """Returns which option a token is a variant of: blanks around it and, but for letters, its case do not count."""
    bare = token.strip(" \t\r\n▁Ġ")
    for number, option in enumerate(options):
        if bare == option or (option not in LETTERS and bare.casefold() == option):
            return number
    return None


def _places(option: str, said: str, flags: int) -> list[int]:
    """Returns where an option stands as an answer: a whole word, then the end of the line or of a clause."""
    return [found.start() for found in re.finditer(rf"(?<!\w){re.escape(option)}{_ENDED}", said, flags)]


def _spoken(label: str) -> str:
    return label.replace("_", " ").strip()


def _fill(text: str, label: str) -> str:
    spoken = _spoken(label)
    article = "an" if spoken[:1].lower() in tuple("aeiou") else "a"
    return text.replace("{a_label}", f"{article} {spoken}").replace("{label}", spoken)
