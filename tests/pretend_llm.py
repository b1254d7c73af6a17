"""Requests of the proposer → answers as a good language model could write them, and ways of spoiling these."""

import json
import random
import threading
from collections.abc import Callable, Mapping

from chat_server import Reply, completion, late, refusal

ASKED = {
    "objects": "other objects",
    "backgrounds": "Which backgrounds",
    "neighbours": "right beside",
    "associations": "associated",
    "colours": "dominant colours",
    "lighting": "Which lighting",
    "overlays": "text and overlays",
    "camera": "traces of the camera",
    "mistakes": "got some photos",
}
Cues = Mapping[str, tuple[str, str]]
"""Name of a question → (phrase, kind) that is answered, several in one."""


def text_of(body: dict) -> str:
    """Returns the text of the question in a request."""
    content = body["messages"][1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def data_of(body: dict) -> dict:
    """Returns the JSON that a request announces as data."""
    return json.loads(text_of(body).partition("\nData: ")[2])


def question_of(body: dict) -> str:
    """Returns which question a request asks."""
    return next((name for name, words in ASKED.items() if words in text_of(body)), "filters")


class PretendModel:
    """Answers every question about a class from a table; phrases of `parts` are judged to be its parts.

    Args:
        cues: label → name of the question → its (phrase, kind) pairs.
        parts: phrases that are parts of whatever is asked.
    """

    def __init__(self, cues: Mapping[str, Mapping[str, list[tuple[str, str]]]], parts: frozenset[str] = frozenset()):
        self._cues, self._parts = cues, parts

    def __call__(self, body: dict) -> str:
        data = data_of(body)
        if "phrases" in data:
            return json.dumps({"judgements": [self._judge(n, phrase) for n, phrase in data["phrases"].items()]})
        found = self._cues.get(data["class"], {}).get(question_of(body), [])
        cues = [{"phrase": phrase, "kind": kind, "reason": "often there"} for phrase, kind in found]
        return json.dumps({"cues": cues}, ensure_ascii=False)

    def _judge(self, number: str, phrase: str) -> dict:
        part = phrase in self._parts
        marks = {"exists_without": not part, "is_part": part, "nearly_always": part, "implies": False}
        return {"number": int(number), **marks}


FAULTS: dict[str, Callable[[str], Reply | Callable[[dict], Reply]]] = {
    "late": lambda good: late(0.15, good),
    "fenced": lambda good: f"Sure, here is the JSON:\n```json\n{good}\n```\nTell me if you need more!",
    "thoughts": lambda good: f'<think>The form is {{"cues": []}} or so.</think>\n{good}',
    "429": lambda _: refusal(429, "rate limit reached"),
    "500": lambda _: refusal(500, "internal error"),
    "cut": lambda good: completion(good[: len(good) // 2], finish="length"),
    "wrong": lambda _: '{"answer": "yes"}',
    "prose": lambda _: "There are many rocks.",
    "refused": lambda _: completion(None, refusal="I cannot help with that."),
    "empty": lambda _: "",
    "silent": lambda _: late(1.0, completion("nobody listens any more", tokens=(0, 0))),
}
"""How a good answer is spoilt; the next answer to the same question is good."""
REPAIRED = frozenset({"cut", "wrong", "prose", "refused", "empty"})
"""Faults that cost a second, repairing answer."""
RETRIED = frozenset({"429", "500", "silent"})
"""Faults after which the same request is sent again; only `silent` was answered, too late."""


class BadServer:
    """A good model behind a bad server: the first answer to every question is spoilt, each in its turn.

    Args:
        model: the good one.
        faults: names of `FAULTS`, drawn in random order over and over.
        seed: of that order.

    Attributes:
        spoilt: name of a fault → how often it was played.
    """

    def __init__(self, model: Callable[[dict], str], faults: tuple[str, ...] = tuple(FAULTS), seed: int = 0) -> None:
        self._model, self._faults, self._rng = model, faults, random.Random(seed)
        self._lock, self._deck = threading.Lock(), list[str]()
        self._seen: set[str] = set()
        self.spoilt: dict[str, int] = dict.fromkeys(faults, 0)

    def __call__(self, body: dict) -> Reply:
        good, asked = self._model(body), json.dumps(body["messages"][:2])
        with self._lock:
            if asked in self._seen:
                return good
            self._seen.add(asked)
            self._deck = self._deck or self._rng.sample(self._faults, len(self._faults))
            fault = self._deck.pop()
            self.spoilt[fault] += 1
        spoilt = FAULTS[fault](good)
        return spoilt(body) if fault in ("late", "silent") else spoilt
