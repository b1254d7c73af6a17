"""A user's own list of phrases (.txt, .csv or .toml) → phrases with kinds and classes, each once."""

import csv
import io
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from discovery.errors import ConfigError
from discovery.schema import KINDS


@dataclass(frozen=True)
class ListedPhrase:
    """A phrase of the user's own list; `label` is the one class that it is meant for, or None for all."""

    text: str
    kind: str = "object"
    label: str | None = None


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
