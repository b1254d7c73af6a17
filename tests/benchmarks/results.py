"""Rows of results → kept on disk beside a mark of the code that made them, so that a changed method never mixes in."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from discovery.run import code_hash

HERE = Path(__file__).parent


class Results:
    """Rows of all processes that share a folder, each in a file of its own, and which of them still hold.

    Args:
        folder: where the files lie; this process writes `results-PID.jsonl`.
        marks: kind of method (`ours`, `peers`) → mark that its rows must carry; others are left where they are.

    Attributes:
        rows: those that hold, one per setting and method.
        n_stale: those of an earlier code.
    """

    def __init__(self, folder: Path, marks: dict[str, str]) -> None:
        self._folder, self._marks = folder, marks
        self.reload()

    def reload(self) -> None:
        """Reads what all processes have written until now."""
        lines = [file.read_text(encoding="utf-8").splitlines() for file in sorted(self._folder.glob("results-*.jsonl"))]
        known = [json.loads(line) for own in lines for line in own]
        holding = [row for row in known if row["code"] == self._marks[row["kind"]]]
        self.rows = list({(row["name"], row["method"]): row for row in holding}.values())
        self.n_stale = len(known) - len(holding)

    def has(self, name: str, method: str) -> bool:
        """Tells whether a setting was judged by a method, with the code as it is."""
        return any(row["name"] == name and row["method"] == method for row in self.rows)

    def add(self, rows: Iterable[dict], kind: str) -> None:
        """Appends rows of one kind of method, each whole line at once."""
        marked = [row | {"kind": kind, "code": self._marks[kind]} for row in rows]
        with (self._folder / f"results-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=_plain) + "\n" for row in marked)
        self.reload()


def code_marks() -> dict[str, str]:
    """Returns the marks of the code as it is: the arenas, with what judges them (the product's stages, the peers)."""
    arena = mark_of_files(*ARENA)
    peers = mark_of_files(*(f"peers/{file.name}" for file in sorted(HERE.glob("peers/*.py"))))
    stages = "-".join(code_hash(f"discovery.{name}") for name in ("associate", "ablate", "rank"))
    return {"ours": mark_of([arena, stages]), "peers": mark_of([arena, peers])}


ARENA = ("arena.py", "arena_digits.py", "arena_photos.py", "digits_pool.py", "digits_model.py", "photos_pool.py")


def mark_of_files(*names: str) -> str:
    """Returns a short hash of source files, named from this folder."""
    return mark_of(HERE.joinpath(name).read_text(encoding="utf-8") for name in names)


def mark_of(texts: Iterable[str]) -> str:
    """Returns a short hash of texts, in order."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else list(value)
