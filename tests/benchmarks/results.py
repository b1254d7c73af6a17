"""Rows of results → kept on disk beside a mark of the code that made them, so that a changed method never mixes in."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from discovery.run import code_hash

HERE = Path(__file__).parent


class Results:
    """Rows of one or more processes, each in a file of its own, and which of them still hold.

    Args:
        folder: where the files lie.
        part: number of this process; it writes `results-PART.jsonl`.
        marks: kind of method (`ours`, `peers`) → mark that its rows must carry; others are left where they are.
    """

    def __init__(self, folder: Path, part: int, marks: dict[str, str]) -> None:
        self._file = folder / f"results-{part}.jsonl"
        self._marks = marks
        known = [
            json.loads(line)
            for file in sorted(folder.glob("results-*.jsonl"))
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        self.rows = [row for row in known if row["code"] == marks[row["kind"]]]
        self.n_stale = len(known) - len(self.rows)

    def has(self, name: str, method: str) -> bool:
        """Tells whether a setting was judged by a method, with the code as it is."""
        return any(row["name"] == name and row["method"] == method for row in self.rows)

    def add(self, rows: Iterable[dict], kind: str) -> None:
        """Appends rows of one kind of method, each whole line at once."""
        marked = [json.loads(json.dumps(row, default=_plain)) for row in rows]
        marked = [row | {"kind": kind, "code": self._marks[kind]} for row in marked]
        with self._file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in marked)
        self.rows += marked


def code_marks() -> dict[str, str]:
    """Returns the marks of the code as it is: the arenas, with what judges them (the product's stages, the peers)."""
    arena = mark_of_files(*ARENA)
    peers = mark_of_files(*(f"peers/{file.name}" for file in sorted(HERE.glob("peers/*.py"))))
    stages = "-".join(code_hash(f"discovery.{name}") for name in ("associate", "ablate", "rank"))
    return {"ours": _mark([arena, stages]), "peers": _mark([arena, peers])}


ARENA = ("arena.py", "arena_digits.py", "arena_photos.py", "digits_pool.py", "digits_model.py", "photos_pool.py")


def mark_of_files(*names: str) -> str:
    """Returns a short hash of source files, named from this folder."""
    return _mark(HERE.joinpath(name).read_text(encoding="utf-8") for name in names)


def _mark(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else list(value)
