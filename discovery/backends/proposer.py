"""A class and some of its photos → attributes: where candidate cues come from."""

import csv
import io
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from discovery.backends.detector import Phrase
from discovery.config import ComputeConfig, DetectConfig, ProposeConfig
from discovery.errors import ConfigError
from discovery.schema import KINDS
from discovery.vocabulary import Encode, Vocabulary, core_reasons, read_vocabulary

Tag = Callable[[Sequence[np.ndarray], Sequence[str]], np.ndarray]
"""n images and m phrases → (n, m) float32 image-level scores."""


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
    """

    phrase: str
    kind: str
    rationale: str
    source: str
    model: str | None = None
    prompt_hash: str | None = None


class Proposer(Protocol):
    """Names what may be a cue for a class.

    Attributes:
        looks: whether it wants to be shown images; it gets none otherwise.
        labels: classes that it was given by name; one that the dataset lacks is the user's mistake.
    """

    looks: bool
    labels: frozenset[str]

    def propose(self, label: str, images: Sequence[np.ndarray]) -> list[Attribute]:
        """Proposes attributes for one class, best first and each (phrase, kind) once.

        Args:
            label: the class, as the dataset writes it.
            images: (H, W, 3) uint8 RGB photos of it.
        """


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

    looks = True
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
        self._tagged = [phrase for phrase in vocabulary.phrases if sees(phrase)]
        always = [*(phrase for phrase in vocabulary.phrases if not sees(phrase)), *computed]
        self._always = [phrase for phrase in dict.fromkeys(always) if phrase not in set(self._tagged)]

    def propose(self, label: str, images: Sequence[np.ndarray]) -> list[Attribute]:
        """See `Proposer.propose`."""
        phrases = [*self._tagged, *self._always]
        core = core_reasons(label, phrases, self._vocabulary, self._encode)
        shown = self._narrow(images, core) if len(images) else []
        return shown + [
            Attribute(phrase.text, phrase.kind, "computed for every class", "vocabulary")
            for phrase in self._always
            if phrase not in core
        ]

    def _narrow(self, images: Sequence[np.ndarray], core: Container[Phrase]) -> list[Attribute]:
        """Keeps the phrases that are most often among the best tags of an image.

        By prevalence alone, never by contrast to other classes: whether a cue is tied to its class is tested later,
        and a list chosen for that tie would make the test circular.
        """
        kept = [i for i, phrase in enumerate(self._tagged) if phrase not in core]
        scores = self._tag(images, [phrase.text for phrase in self._tagged])[:, kept]
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._config.tags_per_image]
        counts, means = Counter(best.ravel().tolist()), scores.mean(axis=0)
        phrases = [self._tagged[i] for i in kept]
        order = sorted(counts, key=lambda i: (-counts[i], -means[i], phrases[i].text))
        return [
            Attribute(
                phrases[i].text,
                phrases[i].kind,
                f"among the {best.shape[1]} best tags of {counts[i]} of {len(images)} photos",
                "vocabulary",
                "conse",
            )
            for i in order[: self._config.per_class]
        ]


@dataclass(frozen=True)
class ListedPhrase:
    """A phrase of the user's own list; `label` is the one class that it is meant for, or None for all."""

    text: str
    kind: str = "object"
    label: str | None = None


class FileProposer:
    """The user's own list, as it stands: nobody but the user decides what is core in it."""

    looks = False

    def __init__(self, path: str | Path) -> None:
        self._phrases = read_phrases(path)
        self.labels = frozenset(phrase.label for phrase in self._phrases if phrase.label is not None)

    def propose(self, label: str, images: Sequence[np.ndarray]) -> list[Attribute]:
        """See `Proposer.propose`."""
        mine = dict.fromkeys((p.text, p.kind) for p in self._phrases if p.label in (None, label))
        return [Attribute(text, kind, "listed by the user", "file") for text, kind in mine]


def read_phrases(path: str | Path) -> list[ListedPhrase]:
    """Reads a user's list: .txt, .csv or .toml.

    `.txt` has a phrase per line, with its kind after a tab or a comma if it is no object, and `# comments`.
    `.csv` has the columns phrase[,kind][,label]. `.toml` has `phrases = [...]` and `[[group]]` tables with
    phrases, kind and label.

    Returns:
        Phrases in order; repeated ones, whatever their case, once and in their first spelling.

    Raises:
        ConfigError: the file is missing, empty, not UTF-8 or not such a list, or a kind is unknown.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise ConfigError(f"propose.file must end in {', '.join(_READERS)}, got {path.name!r}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot read propose.file = {path}: {error.strerror}") from error
    return _merge(_READERS[path.suffix.lower()](text, path), path)


def _merge(rows: Iterable[tuple[str, dict]], path: Path) -> list[ListedPhrase]:
    """Turns (where, fields) into phrases, each once."""
    spellings: dict[str, str] = {}
    phrases: dict[ListedPhrase, None] = {}
    for where, fields in rows:
        text = " ".join(unicodedata.normalize("NFC", fields["phrase"]).split())
        kind, label = fields.get("kind") or "object", fields.get("label") or None
        if not text:
            raise ConfigError(f"{path}, {where}: the phrase is empty")
        if kind not in KINDS:
            raise ConfigError(f"{path}, {where}: unknown kind {kind!r}; choose from {', '.join(KINDS)}")
        phrases[ListedPhrase(spellings.setdefault(text.casefold(), text), kind, label)] = None
    if not phrases:
        raise ConfigError(f"{path} lists no phrase; write one per line")
    return list(phrases)


def _read_txt(text: str, path: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(text.split("\n"), start=1):
        content = "" if line.lstrip().startswith("#") else line.partition(" #")[0].strip()
        if not content:
            continue
        phrase, _, kind = content.partition("\t") if "\t" in content else _cut_last(content)
        yield f"line {number}", {"phrase": phrase, "kind": kind.strip()}


def _cut_last(content: str) -> tuple[str, str, str]:
    """Splits "phrase, kind" at its last comma; without a comma all of it is the phrase."""
    head, comma, tail = content.rpartition(",")
    return (head, comma, tail) if comma else (tail, "", "")


def _read_csv(text: str, path: Path) -> Iterator[tuple[str, dict]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        columns = reader.fieldnames or []
        if "phrase" not in columns or set(columns) - {"phrase", "kind", "label"}:
            got = ",".join(columns) or "none"
            raise ConfigError(f"{path} must have the columns phrase[,kind][,label], got {got}")
        for row in reader:
            if None in row:
                raise ConfigError(f"{path}, line {reader.line_num}: more fields than columns; quote commas")
            yield f"line {reader.line_num}", {key: (value or "").strip() for key, value in row.items()}
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}") from error


def _read_toml(text: str, path: Path) -> Iterator[tuple[str, dict]]:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    groups = values.pop("group", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ConfigError(f"{path}: expected [[group]] tables, got group = {groups!r}")
    for number, group in enumerate([values, *groups]):
        where = f"group {number}" if number else "top"
        odd = sorted(set(group) - {"phrases", "kind", "label"} - ({"topic"} if number else set()))
        listed = group.get("phrases", [])
        strings = [group.get("kind", ""), group.get("label", ""), *(listed if isinstance(listed, list) else [0])]
        if odd or not all(isinstance(value, str) for value in strings):
            raise ConfigError(f"{path}, {where}: expected phrases = [...], kind, label as text, got {odd or group}")
        for phrase in listed:
            yield where, {"phrase": phrase, "kind": group.get("kind"), "label": group.get("label")}


_READERS = {".txt": _read_txt, ".csv": _read_csv, ".toml": _read_toml}


def _load_vocabulary(config: ProposeConfig, detect: DetectConfig, compute: ComputeConfig) -> Proposer:
    from discovery.backends.appearance import appearance_phrases
    from discovery.backends.conse import ConseDetector
    from discovery.backends.text import load_text

    detector = ConseDetector(detect, compute)
    computed = [Phrase(text, kind) for text, kind in appearance_phrases()]
    encode = load_text("minilm", compute).encode
    return VocabularyProposer(
        config, read_vocabulary(), computed=computed, sees=detector.sees, tag=detector.tag, encode=encode
    )


def _load_file(config: ProposeConfig, detect: DetectConfig, compute: ComputeConfig) -> Proposer:
    if not config.file:
        raise ConfigError("propose.proposer = 'file' needs propose.file: a .txt, .csv or .toml list of phrases")
    return FileProposer(config.file)


PROPOSERS: dict[str, Callable[[ProposeConfig, DetectConfig, ComputeConfig], Proposer]] = {
    "vocabulary": _load_vocabulary,
    "file": _load_file,
}
