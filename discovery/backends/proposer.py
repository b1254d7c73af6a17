"""A class and some of its photos → attributes: where candidate cues come from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from discovery.backends.detector import Phrase
from discovery.backends.llm_budget import Cost
from discovery.backends.phrase_list import read_phrases
from discovery.config import ComputeConfig, DetectConfig, ProposeConfig
from discovery.errors import ConfigError
from discovery.vocabulary import PART_OF, Encode, Vocabulary, core_reasons, read_vocabulary

Tag = Callable[[Sequence[np.ndarray], Sequence[str]], np.ndarray]
"""n images and m phrases → (n, m) float32 image-level scores."""
MOST_PARTS = 6
"""Parts of a class that are proposed at most."""


@dataclass(frozen=True)
class Marks:
    """SpurLens' four filters on a phrase and a class, as a language model judges them: marks, nothing is dropped.

    Attributes:
        exists_without: a photo of the class need not show it.
        is_part: it is a part of the class itself.
        nearly_always: almost every photo of the class shows it.
        implies: where it is seen, the class nearly always is.
    """

    exists_without: bool
    is_part: bool
    nearly_always: bool
    implies: bool


@dataclass(frozen=True)
class Attribute:
    """A candidate cue of one class.

    Attributes:
        phrase: free text.
        kind: one of `schema.KINDS`.
        rationale: why it is a candidate, in a few words.
        source: the proposer's name.
        model: what chose or wrote it; None where nothing did.
        prompt_hash: of the prompt that a language model answered; None without one.
        marks: what a language model judges of it; None where none was asked.
    """

    phrase: str
    kind: str
    rationale: str
    source: str
    model: str | None = None
    prompt_hash: str | None = None
    marks: Marks | None = None


@dataclass(frozen=True)
class Note:
    """What tags or a caption say of a photo, and whether the model under audit got it right."""

    text: str
    correct: bool


class Proposer(Protocol):
    """Names what may be a cue for a class.

    Attributes:
        looks: how many images of a class it wants to be shown; it gets none with 0.
        labels: classes that it was given by name; one that the dataset lacks is the user's mistake.
    """

    looks: int
    labels: frozenset[str]

    def propose(self, label: str, images: Sequence[np.ndarray], notes: Sequence[Note] = ()) -> list[Attribute]:
        """Proposes attributes for one class, best first and each (phrase, kind) once.

        Args:
            label: the class, as the dataset writes it.
            images: (H, W, 3) uint8 RGB photos of it.
            notes: on photos of it that were audited; none unless `propose.evidence` asks for them.
        """

    def costs(self) -> Mapping[str, Cost]:
        """Returns step → what a server's answers cost so far; empty where none was asked."""


def load_proposer(name: str, config: ProposeConfig, detect: DetectConfig, compute: ComputeConfig) -> Proposer:
    """Loads a proposer by name.

    Raises:
        ConfigError: there is no such proposer, or its list cannot be used.
    """
    if name not in PROPOSERS:
        raise ConfigError(f"unknown proposer {name!r}; choose from {', '.join(PROPOSERS)}")
    return PROPOSERS[name](config, detect, compute)


class VocabularyProposer:
    """The written list, narrowed per class to what its photos show.

    Args:
        config: how many tags are counted per image, and how many phrases kept per class.
        vocabulary: the written list.
        computed: phrases offered to every class: another detector computes them for all images anyway.
        sees: tells which phrases of the list `tag` can score; the others are offered to every class.
        tag: images × phrases → scores.
        encode: text encoder that recognises the class itself under other names.
    """

    labels: frozenset[str] = frozenset()

    def __init__(
        self,
        config: ProposeConfig,
        vocabulary: Vocabulary,
        *,
        computed: Iterable[Phrase],
        sees: Callable[[Phrase], bool],
        tag: Tag,
        encode: Encode,
    ) -> None:
        self._config, self._vocabulary, self._tag, self._encode = config, vocabulary, tag, encode
        self.looks = config.images_per_class
        self._tagged = [phrase for phrase in vocabulary.phrases if sees(phrase)]
        always = [*(phrase for phrase in vocabulary.phrases if not sees(phrase)), *computed]
        self._always = [phrase for phrase in dict.fromkeys(always) if phrase not in set(self._tagged)]

    def propose(self, label: str, images: Sequence[np.ndarray], notes: Sequence[Note] = ()) -> list[Attribute]:
        """See `Proposer.propose`."""
        phrases = [*self._tagged, *self._always]
        core = core_reasons(label, phrases, self._vocabulary, self._encode)
        shown = self._narrow(images, core) if len(images) else []
        return shown + [
            Attribute(phrase.text, phrase.kind, "computed for every class", "vocabulary")
            for phrase in self._always
            if phrase not in core
        ]

    def costs(self) -> Mapping[str, Cost]:
        """Returns nothing: it asks no server."""
        return {}

    def _narrow(self, images: Sequence[np.ndarray], core: Mapping[Phrase, str]) -> list[Attribute]:
        """Keeps the phrases that are most often among the best tags of an image, then parts of the class.

        By prevalence alone, never by contrast to other classes: whether a cue is tied to its class is tested later,
        and a list chosen for that tie would make the test circular. Parts are asked for to be `core`, and take no
        place: one without a name would be found under the next best, a fishing rod as a ski pole.
        """
        scores = self._tag(images, [phrase.text for phrase in self._tagged])
        cues = [i for i, phrase in enumerate(self._tagged) if phrase not in core]
        parts = [i for i, phrase in enumerate(self._tagged) if core.get(phrase, "").startswith(PART_OF)]
        ranked = -np.sort(-scores[:, cues], axis=1)[:, : self._config.tags_per_image]
        among = f"among the {ranked.shape[1]} best tags of"
        shown = (scores >= ranked[:, -1:]).sum(axis=0)
        order = sorted(np.flatnonzero(shown), key=lambda i: (-shown[i], -scores[:, i].mean(), self._tagged[i].text))
        mine = [i for i in order if i in cues][: self._config.per_class] + [i for i in order if i in parts][:MOST_PARTS]
        return [self._attribute(i, f"{among} {shown[i]} of {len(images)} photos", core) for i in mine]

    def _attribute(self, i: int, why: str, core: Mapping[Phrase, str]) -> Attribute:
        phrase = self._tagged[i]
        why = f"{core[phrase]}; {why}" if phrase in core else why
        return Attribute(phrase.text, phrase.kind, why, "vocabulary", "conse")


class FileProposer:
    """The user's own list, as it stands: nobody but the user decides what is core in it."""

    looks = 0

    def __init__(self, path: str | Path) -> None:
        self._phrases = read_phrases(path)
        self.labels = frozenset(phrase.label for phrase in self._phrases if phrase.label is not None)

    def propose(self, label: str, images: Sequence[np.ndarray], notes: Sequence[Note] = ()) -> list[Attribute]:
        """See `Proposer.propose`."""
        mine = dict.fromkeys((p.text, p.kind) for p in self._phrases if p.label in (None, label))
        return [Attribute(text, kind, "listed by the user", "file") for text, kind in mine]

    def costs(self) -> Mapping[str, Cost]:
        """Returns nothing: it asks no server."""
        return {}


def _load_vocabulary(config: ProposeConfig, detect: DetectConfig, compute: ComputeConfig) -> Proposer:
    from discovery.backends.appearance import appearance_phrases
    from discovery.backends.conse import ConseDetector
    from discovery.backends.text import load_text

    detector = ConseDetector(detect, compute)
    computed = [Phrase(text, kind) for text, kind in appearance_phrases()]
    encode = load_text(config.text, compute).encode
    return VocabularyProposer(
        config, read_vocabulary(), computed=computed, sees=detector.sees, tag=detector.tag, encode=encode
    )


def _load_file(config: ProposeConfig, detect: DetectConfig, compute: ComputeConfig) -> Proposer:
    if not config.file:
        raise ConfigError("propose.proposer = 'file' needs propose.file: a .txt, .csv or .toml list of phrases")
    return FileProposer(config.file)


def _load_openai(config: ProposeConfig, detect: DetectConfig, compute: ComputeConfig) -> Proposer:
    from discovery.backends.proposer_openai import load_openai

    return load_openai(config, compute)


PROPOSERS: dict[str, Callable[[ProposeConfig, DetectConfig, ComputeConfig], Proposer]] = {
    "vocabulary": _load_vocabulary,
    "file": _load_file,
    "openai": _load_openai,
}
