"""The written list of candidate cues → phrases with kinds, less those that are a class itself or its part."""

import importlib.resources
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from discovery.backends.detector import Phrase
from discovery.errors import DataError
from discovery.schema import KINDS

SAME_SIMILARITY = 0.85
"""Cosine of MiniLM embeddings from which two phrases name one thing.

Measured on the list: "car" and "automobile" 0.86, "shark" and "tiger shark" 0.87 lie above; contexts lie
below, if not by much: "diving board" and "diving" 0.81, "spider web" and "spider" 0.81, "race track" and
"racing" 0.76. A lower value would hide cues; what it misses is written under [families] and [parts]."""

PART_OF = "belongs to"
"""How the reason begins that a phrase is a part of its class, and neither the class nor another name of it."""

HEAD_ENDS = frozenset({"a", "an", "the", "of", "in", "on", "at", "with", "from", "by", "for", "to", "through", "over"})

Encode = Callable[[Sequence[str]], np.ndarray]
"""n phrases → (n, d) float32 unit-norm embeddings."""


@dataclass(frozen=True)
class Vocabulary:
    """Candidate cues and what is known of them.

    Attributes:
        phrases: in the order in which they are written.
        families: general name → names, or last words of names, of what is one of it.
        parts: phrase → the classes or families that it, and any kind of it, belongs to.
    """

    phrases: tuple[Phrase, ...]
    families: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, tuple[str, ...]]


@cache
def read_vocabulary() -> Vocabulary:
    """Reads the list that comes with the program.

    Raises:
        DataError: the file is missing, or is not such a list.
    """
    file = packaged_file("vocabulary.toml")
    try:
        return parse_vocabulary(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not a vocabulary: {error}; install the program again") from error


def parse_vocabulary(values: Mapping) -> Vocabulary:
    """Builds a vocabulary from a parsed `vocabulary.toml`.

    Raises:
        DataError: a kind is unknown.
        KeyError: a group lacks its kind or its phrases.
    """
    odd = sorted({group["kind"] for group in values["group"]} - set(KINDS))
    if odd:
        raise DataError(f"vocabulary: unknown kind {odd[0]!r}; choose from {', '.join(KINDS)}")
    phrases = (Phrase(text, group["kind"]) for group in values["group"] for text in group["phrases"])
    families, parts = (
        {name: tuple(members) for name, members in values.get(table, {}).items()} for table in ("families", "parts")
    )
    return Vocabulary(tuple(phrases), families, parts)


def packaged_file(name: str) -> Path:
    """Returns where a file of the program is: in the installed package, else in the checkout's data/.

    Raises:
        DataError: it is in neither place.
    """
    places = [Path(str(importlib.resources.files("discovery"))) / "data", Path(__file__).parents[1] / "data"]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise DataError(f"{name} is missing from {places[0]} and {places[1]}; install the program again")


def label_names(label: str) -> tuple[str, ...]:
    """Returns what a label calls its class, in plain lower-case words.

    `"pole_vaulting"` → `("pole vaulting",)`, `"n02165456_ladybug"` → `("ladybug",)`,
    `"001.Laysan_Albatross"` → `("laysan albatross",)`, `"cab, hack, taxi"` → `("cab", "hack", "taxi")`.
    """
    plain = re.sub(r"^(n\d{8}[\W_]+|\d+\.)", "", label)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    names = (" ".join(_words(name)) for name in re.split(r"[,;/]", plain))
    return tuple(name for name in names if name) or (label.casefold(),)


def core_reasons(label: str, phrases: Sequence[Phrase], vocabulary: Vocabulary, encode: Encode) -> dict[Phrase, str]:
    """Finds the phrases that are a class itself or its parts, and so can be no spurious cue for it.

    Args:
        label: the class, as the dataset writes it.
        phrases: candidates.
        vocabulary: its families and parts.
        encode: text encoder; asked for the same phrases for every class, so that it can remember them.

    Returns:
        Phrase → why it is left out.
    """
    if not phrases:
        return {}
    names = label_names(label)
    wholes = {whole for owners in vocabulary.parts.values() for whole in owners}
    texts = sorted({phrase.text for phrase in phrases} | wholes)
    alike = (encode(texts) @ encode(list(names)).T).max(axis=1)
    known = _known_of(names, vocabulary, dict(zip(texts, map(float, alike), strict=True)))
    reasons = {phrase: _core_reason(phrase.text, known) for phrase in phrases}
    return {phrase: reason for phrase, reason in reasons.items() if reason}


def is_same(phrase: str, name: str) -> bool:
    """Tells by their words whether one of two phrases is the other, or a kind of it.

    "rock climbing" is "climbing", "bear" is "polar bear", "climber" is "climbing"; "race track" is not
    "racing": what a phrase says last, before any article or preposition, is the thing that it names.
    """
    return _holds(phrase, name, derived=True) or _holds(name, phrase, derived=True)


@dataclass(frozen=True)
class _Known:
    """What is known of one class: its names, the families it is in, its parts with their whole, what is like it."""

    names: tuple[str, ...]
    families: frozenset[str]
    parts: Mapping[str, str]
    similarity: Mapping[str, float]


def _known_of(names: tuple[str, ...], vocabulary: Vocabulary, similarity: Mapping[str, float]) -> _Known:
    families = frozenset(family for family, members in vocabulary.families.items() if _in_any(names, members))
    wholes = {whole for owners in vocabulary.parts.values() for whole in owners}
    own = {w for w in wholes if w in families or similarity[w] >= SAME_SIMILARITY or _in_any(names, [w])}
    parts = {part: whole for part, owners in vocabulary.parts.items() for whole in owners if whole in own}
    return _Known(names, families, parts, similarity)


def _core_reason(phrase: str, known: _Known) -> str | None:
    if any(is_same(phrase, name) for name in known.names):
        return "the class itself"
    if known.similarity[phrase] >= SAME_SIMILARITY:
        return f"means the same as the class (similarity {known.similarity[phrase]:.2f})"
    if phrase in known.families:
        return "a general name of the class"
    wholes = (whole for part, whole in known.parts.items() if _holds(phrase, part, derived=False))
    return next((f"{PART_OF} {whole}" for whole in wholes), None)


def _in_any(names: Iterable[str], wholes: Sequence[str]) -> bool:
    """Tells whether a name is one of some wholes: a golden retriever is a retriever; boxing is no boxer."""
    return any(_holds(name, whole, derived=False) for name in names for whole in wholes)


def _holds(longer: str, shorter: str, *, derived: bool) -> bool:
    """Tells whether `longer` has all words of `shorter` and names the same thing by its head."""
    long, short = _read(longer, derived), _read(shorter, derived)
    if not long or not short or long[0].isdisjoint(short[0]):
        return False
    return all(any(not word.isdisjoint(other) for other in long) for word in short)


@lru_cache(maxsize=20_000)
def _read(text: str, derived: bool) -> tuple[frozenset[str], ...]:
    """Returns the forms of each word of a phrase; its head comes first."""
    words = _words(text)
    head = _head(words)
    ordered = [*words[head : head + 1], *words[:head], *words[head + 1 :]] if words else []
    return tuple(_forms(word, derived) for word in ordered)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _head(words: Sequence[str]) -> int:
    """Returns the index of the word that names the thing: the last before an article or a preposition."""
    ends = [i for i, word in enumerate(words) if word in HEAD_ENDS and i]
    return min(ends, default=len(words)) - 1


@lru_cache(maxsize=20_000)
def _forms(word: str, derived: bool) -> frozenset[str]:
    """Returns stems of a word; two words with a stem in common are forms of one.

    Without `derived` only its plural counts. With it "-ing" does, and "-er" against "-ing" alone ("climber"
    and "climbing"): else "hammer" would be a form of "ham".
    """
    single = _singular(word)
    if not derived:
        return frozenset({single})
    forms = {_bare(single)}
    if single.endswith("ing") and _is_stem(single[:-3]):
        forms |= {_bare(single[:-3]), "-er " + _bare(single[:-3])}
    if single.endswith("er") and _is_stem(single[:-2]):
        forms.add("-er " + _bare(single[:-2]))
    return frozenset(forms)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")) else word


def _bare(word: str) -> str:
    """Drops what spelling adds or loses before "-ing": "rac(e)", "swim(m)"."""
    if word.endswith("e") and len(word) > 3:
        return word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl" else word


def _is_stem(text: str) -> bool:
    return len(text) >= 3 and any(letter in "aeiouy" for letter in text)
