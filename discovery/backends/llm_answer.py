"""Text that a language model wrote → a strict pydantic model, or why it is none; never executed, never guessed at."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

CANDIDATES = 20
"""JSON objects tried in one answer: a hostile one may open thousands of braces."""


@dataclass(frozen=True)
class Reply:
    """What a server sent back for one request.

    Attributes:
        text: the answer as it stands; empty where there is none.
        finish: why it ended, such as `stop` or `length`.
        refusal: the model's own words where it declined.
        tokens_in: tokens of the prompt; None where the server does not count them.
        tokens_out: tokens of the answer; None where the server does not count them.
        top: per token of the answer its likeliest alternatives as (token, natural log-probability); None without.
        retries: how often it was asked for before, and refused for a while.
    """

    text: str
    finish: str = "stop"
    refusal: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    top: tuple[tuple[tuple[str, float], ...], ...] | None = None
    retries: int = 0


def read_reply(body: str, *, retries: int = 0) -> Reply | None:
    """Reads the body of a chat completion; None when it is no such thing, as a proxy's page is none."""
    try:
        values = json.loads(body)
        choice = values["choices"][0]
        message, usage = choice["message"], values.get("usage") or {}
        text, refusal = message.get("content") or "", message.get("refusal")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        return None
    if not isinstance(text, str) or not isinstance(usage, dict):
        return None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    tokens_in, tokens_out = (count if isinstance(count, int) else None for count in counts)
    finish = str(choice.get("finish_reason") or "stop")
    refusal, top = str(refusal) if refusal else None, _top(choice.get("logprobs"))
    return Reply(text, finish, refusal, tokens_in, tokens_out, top, retries)


def read_model(reply: Reply, schema: type[BaseModel]) -> BaseModel | str:
    """Reads a reply as `schema`: bare JSON, or fenced, or after a `<think>` part, but always strictly.

    Returns:
        The model, or one line on why there is none.
    """
    if reply.refusal:
        return f"the model refused: {one_line(reply.refusal)}"
    text = without_thoughts(reply.text)
    if reply.finish == "length":
        return "the answer was cut off at its greatest length"
    if text is None:
        return "the answer ends within its <think> part"
    if not text.strip():
        return "the answer is empty"
    why = "it holds no JSON object"
    for candidate in _objects(text):
        try:
            return schema.model_validate_json(candidate)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            why = f"{place}: {first['msg']}" if place else str(first["msg"])
    return f"the answer does not fit: {one_line(why)}"


def without_thoughts(text: str) -> str | None:
    """Drops a leading `<think>…</think>`; None when it never ends."""
    thinks = re.match(r"\s*<(think|thinking)>", text)
    if not thinks:
        return text
    _, end, rest = text.partition(f"</{thinks[1]}>")
    return rest if end else None


def one_line(text: str, most: int = 200) -> str:
    """Returns text on one line of printable characters, cut after `most` of them."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def _objects(text: str) -> Iterator[str]:
    """Yields what may be the JSON object that was asked for, best guess first."""
    yield text.strip()
    yield from (fenced.strip() for fenced in re.findall(r"```(?:\w+)?\s*\n(.*?)```", text, re.S)[:CANDIDATES])
    decoder, at = json.JSONDecoder(), text.find("{")
    for _ in range(CANDIDATES):
        if at < 0:
            return
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield text[at:end]
        at = text.find("{", end)


def _top(logprobs: Any) -> tuple[tuple[tuple[str, float], ...], ...] | None:
    try:
        return tuple(
            tuple((str(other["token"]), float(other["logprob"])) for other in (token.get("top_logprobs") or [token]))
            for token in logprobs["content"]
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
