"""A class and some of its photos → attributes that a language model writes and judges; its answers are data."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from discovery.backends.detector import Phrase
from discovery.backends.llm_budget import Cost
from discovery.backends.llm_client import Answer, Client
from discovery.backends.llm_questions import (
    Cue,
    Cues,
    Judgement,
    Judgements,
    cue_questions,
    judge_question,
    read_cues,
    read_judgements,
)
from discovery.backends.proposer import Attribute, Marks, Note
from discovery.config import ComputeConfig, ProposeConfig
from discovery.errors import BackendError
from discovery.vocabulary import SAME_SIMILARITY, Encode

MERGED_KINDS = frozenset({"object", "background", "texture"})
"""Kinds whose phrases are merged by meaning: in others "red tint" is near "blue tint" and another thing."""
KNOWN_KINDS = frozenset({"text", "lighting", "quality"})
"""Kinds whose detector knows a few phrases only; the model is told them."""

_log = logging.getLogger(__name__)


class OpenAIProposer:
    """What a language model says of a class, in the order of the questions; synonyms once, judged, nothing dropped.

    Args:
        config: questions, photos shown, and how many phrases are judged at once.
        client: of the server.
        computed: phrases offered to every class: another detector computes them for all images anyway.
        encode: text encoder that recognises synonyms.
    """

    labels: frozenset[str] = frozenset()

    def __init__(self, config: ProposeConfig, client: Client, *, computed: Iterable[Phrase], encode: Encode) -> None:
        self._config, self._client, self._encode = config, client, encode
        self._computed = list(dict.fromkeys(computed)) if config.computed else []
        self._known = known_phrases(self._computed)
        self.looks = config.show_photos

    def propose(self, label: str, images: Sequence[np.ndarray], notes: Sequence[Note] = ()) -> list[Attribute]:
        """See `Proposer.propose`.

        Raises:
            BackendError: the server cannot be used, or none of its answers about this class can.
        """
        questions = cue_questions(label, self._config, images, notes, self._known)
        answers = dict(zip(questions, self._client.ask_all(questions.values()), strict=True))
        written = self._merge(self._written(label, answers))
        if not written:
            first = next(iter(answers.values()))
            why = first.problem or "they name nothing"
            raise BackendError(
                f"no answer about the class {label!r} can be used ({why}); the first is kept in "
                f"{self._client.file_of(first)}: choose another llm, or delete the file to ask again"
            )
        judged = self._judged(label, written) if self._config.judge else written
        mine = {(a.phrase.casefold(), a.kind) for a in judged}
        return judged + [
            Attribute(phrase.text, phrase.kind, "computed for every class", "vocabulary")
            for phrase in self._computed
            if (phrase.text.casefold(), phrase.kind) not in mine
        ]

    def costs(self) -> Mapping[str, Cost]:
        """Returns what questions and filters cost so far."""
        return self._client.costs()

    def _written(self, label: str, answers: Mapping[str, Answer]) -> list[Attribute]:
        """Returns what the answers name, question by question; a phrase counts where it is named first."""
        found: dict[tuple[str, str], Attribute] = {}
        for name, answer in answers.items():
            self._say_problem(f"{label!r}, question {name!r}", answer)
            if not isinstance(answer.parsed, Cues):
                continue
            cues = read_cues(answer.parsed, self._config.phrases_per_question)
            if len(answer.parsed.cues) > len(cues):
                _log.info(
                    "%r, question %r: %d of %d phrases are taken", label, name, len(cues), len(answer.parsed.cues)
                )
            for cue in cues:
                found.setdefault((cue.phrase.casefold(), cue.kind), self._attribute(cue, name, answer))
        return list(found.values())

    def _attribute(self, cue: Cue, name: str, answer: Answer) -> Attribute:
        model = self._client.config.llm
        return Attribute(cue.phrase, cue.kind, f"{name}: {cue.reason}", "openai", model, answer.prompt_hash)

    def _merge(self, written: list[Attribute]) -> list[Attribute]:
        """Merges synonyms of one kind into the first of them, which tells the others' words."""
        embeddings = self._encode([a.phrase for a in written]) if written else np.empty((0, 1))
        alike = embeddings @ embeddings.T >= SAME_SIMILARITY
        kept: dict[int, list[str]] = {}
        for i, attribute in enumerate(written):
            by_meaning = attribute.kind in MERGED_KINDS
            first = next((k for k in kept if by_meaning and alike[i, k] and written[k].kind == attribute.kind), None)
            if first is None:
                kept[i] = []
            else:
                kept[first].append(attribute.phrase)
        return [
            replace(written[i], rationale=f"{written[i].rationale}; also: {', '.join(others)}")
            if others
            else written[i]
            for i, others in kept.items()
        ]

    def _judged(self, label: str, written: list[Attribute]) -> list[Attribute]:
        """Marks each attribute with the four filters; one that is not judged keeps no mark, and that is said."""
        size = self._config.judged_at_once
        batches = [written[start : start + size] for start in range(0, len(written), size)]
        questions = [judge_question(label, [a.phrase for a in batch]) for batch in batches]
        marked = []
        for batch, answer in zip(batches, self._client.ask_all(questions), strict=True):
            self._say_problem(f"{label!r}, filters", answer)
            found = answer.parsed if isinstance(answer.parsed, Judgements) else Judgements(judgements=[])
            for attribute, judgement in zip(batch, read_judgements(found, len(batch)), strict=True):
                marked.append(replace(attribute, marks=_marks(judgement)) if judgement else attribute)
        return marked

    def _say_problem(self, where: str, answer: Answer) -> None:
        if answer.problem:
            file = self._client.file_of(answer)
            _log.warning("%s: %s; the raw answer is kept in %s: delete it to ask again", where, answer.problem, file)


def known_phrases(computed: Iterable[Phrase]) -> tuple[str, ...]:
    """Returns the phrases that a detector knows by just these words, without those in every colour."""
    return tuple(phrase.text for phrase in computed if phrase.kind in KNOWN_KINDS)


def computed_phrases() -> list[Phrase]:
    """Returns what is computed for every class: appearances, and kinds of overlaid text."""
    from discovery.backends.appearance import appearance_phrases
    from discovery.vocabulary import read_vocabulary

    listed = [phrase for phrase in read_vocabulary().phrases if phrase.kind not in MERGED_KINDS]
    return [*listed, *(Phrase(text, kind) for text, kind in appearance_phrases())]


def load_openai(config: ProposeConfig, compute: ComputeConfig) -> OpenAIProposer:
    """Loads the proposer; its server is not asked before the first question.

    Raises:
        ConfigError: no model is named, or there is no key where one is needed.
    """
    from discovery.backends.text import load_text

    client = Client(config)
    return OpenAIProposer(config, client, computed=computed_phrases(), encode=load_text(config.text, compute).encode)


def _marks(judgement: Judgement) -> Marks:
    return Marks(judgement.exists_without, judgement.is_part, judgement.nearly_always, judgement.implies)
