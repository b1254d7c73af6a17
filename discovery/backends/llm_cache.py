"""A request to a language model → its answer, kept on disk: asked twice, it costs once and answers the same."""

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from discovery.backends.llm_answer import Reply
from discovery.errors import BackendError

Messages = Sequence[Mapping[str, Any]]


def request_hash(model: str, messages: Messages, parameters: Mapping[str, Any]) -> str:
    """Returns the sha256 of what is asked: the model, every message with its images, and the parameters."""
    asked = {"model": model, "messages": list(messages), "parameters": dict(parameters)}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class Cache:
    """Answers in a folder, one JSON file each, with the prompt that they answer.

    Args:
        folder: made with the first answer; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = Path(folder).expanduser() if folder else None

    def path(self, key: str) -> Path | None:
        """Returns where the answer to a request is kept."""
        return self._folder / key[:2] / f"{key}.json" if self._folder else None

    def get(self, key: str) -> Reply | None:
        """Returns the answer to a request; None when it is not here, or its file is damaged."""
        path = self.path(key)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))["reply"] if path else None
            return kept and Reply(**{**kept, "top": _tuples(kept["top"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, asked: Mapping[str, Any], reply: Reply) -> None:
        """Keeps an answer; images in the prompt are kept as their hash.

        Raises:
            BackendError: the folder cannot be written.
        """
        path = self.path(key)
        if path is None:
            return
        text = json.dumps({"asked": _shortened(asked), "reply": asdict(reply)}, indent=1, ensure_ascii=False)
        scratch = path.with_suffix(f".tmp-{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A model may write half of a surrogate pair, which UTF-8 cannot hold.
            scratch.write_bytes(text.encode("utf-8", "backslashreplace"))
            os.replace(scratch, path)
        except OSError as error:
            raise BackendError(f"cannot keep answers in {self._folder}: {error.strerror}; choose another") from error


def _shortened(value: Any) -> Any:
    """Returns a prompt with each image as its hash: the photos themselves are the user's and lie elsewhere."""
    if isinstance(value, Mapping):
        return {key: _shortened(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(part) for part in value]
    if isinstance(value, str) and value.startswith("data:"):
        return f"image sha256 {hashlib.sha256(value.encode()).hexdigest()}"
    return value


def _tuples(top: Any) -> Any:
    return top if top is None else tuple(tuple((token, float(value)) for token, value in place) for place in top)
