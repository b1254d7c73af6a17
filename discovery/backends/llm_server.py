"""One request → one reply of an OpenAI-compatible server, in the dialect it takes, or one line why there is none."""

import logging
import os
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from discovery.backends.llm_answer import Reply, one_line, read_reply
from discovery.backends.llm_cache import Messages
from discovery.config import ServerConfig
from discovery.errors import BackendError, ConfigError

OPENAI = "api.openai.com"
FORMATS = ("json_schema", "json_object", "text")
"""What a server is asked to hold its answer to; a refusal moves on to the next."""

SECRET_CHARS = 8
"""A shorter key, such as "ollama", is no secret, and blotting it out would hurt words that hold it."""

NAMES = {
    "response_format": r"response_format|json_schema|json_object|structured[ _]outputs?|guided",
    "temperature": r"temperature",
    "seed": r"seed",
    "logprobs": r"(top_)?logprobs",
    "detail": r"detail",
    "max_tokens": r"max_tokens",
    "max_completion_tokens": r"max_completion_tokens",
}
"""What a server may refuse, and how its refusal names it."""

TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum context|prompt is too long|too many tokens|exceed.{0,40}context", re.I
)

_log = logging.getLogger(__name__)


class Server:
    """An OpenAI-compatible server; the client of the SDK is made with the first request.

    Args:
        config: address, model, key, time and retries.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._lock, self._sdk = threading.Lock(), None
        self._host = urlsplit(config.base_url).hostname or ""
        self._key = read_key(config)
        self._refused: set[str] = set() if self._host == OPENAI else {"max_completion_tokens", "detail"}
        self._format = 0

    def send(self, messages: Messages, schema: type[BaseModel] | None, parameters: Mapping[str, Any]) -> Reply:
        """Sends one request.

        Args:
            messages: of a chat.
            schema: what the answer must fit; None for free text.
            parameters: temperature, seed, max_tokens and, if wanted, logprobs and top_logprobs.

        Raises:
            BackendError: the server cannot be reached, refuses, or is no such server.
        """
        import openai

        unreadable = 0
        for _ in range(len(NAMES) + len(FORMATS)):
            format_now, refused = self._format, frozenset(self._refused)
            try:
                raw = self._call(messages, schema, parameters)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self._learn(error, format_now, refused):
                    raise BackendError(self._refusal(error)) from None
                continue
            except openai.OpenAIError as error:
                # Not "from error": it may quote the key, and tracebacks are written down by others.
                raise BackendError(self._refusal(error)) from None
            if reply := read_reply(self._hide(raw.text), retries=raw.retries_taken + unreadable):
                return reply
            unreadable += 1
            if unreadable > 1:  # once may be a proxy that stumbled
                raise BackendError(f"{self._at} does not answer as an OpenAI-compatible server; check base_url")
        raise BackendError(f"{self._at} refuses one parameter after another; is it an OpenAI-compatible server?")

    @property
    def _at(self) -> str:
        return f"the server at {self._config.base_url}"

    def _call(self, messages: Messages, schema: type[BaseModel] | None, parameters: Mapping[str, Any]) -> Any:
        wanted = {name: value for name, value in parameters.items() if name.removeprefix("top_") not in self._refused}
        most = parameters.get("max_tokens")
        wanted.pop("max_tokens", None)
        for name in ("max_completion_tokens", "max_tokens"):
            if most and name not in self._refused:
                wanted[name] = most
                break
        form = FORMATS[self._format]
        if "detail" in self._refused:
            messages = [_without_detail(message) for message in messages]
        chat = self._client().chat.completions.with_raw_response
        ask = {"model": self._config.llm, "messages": list(messages), **wanted}
        if schema is not None and form == "json_schema":
            return chat.parse(**ask, response_format=schema)
        if schema is not None and form == "json_object":
            return chat.create(**ask, response_format={"type": "json_object"})
        return chat.create(**ask)

    def _client(self) -> Any:
        with self._lock:
            if self._sdk is None:
                from openai import OpenAI

                self._sdk = OpenAI(
                    # A server of one's own asks for no key, but the SDK insists on one.
                    api_key=self._key or "none",
                    base_url=self._config.base_url,
                    timeout=self._config.timeout_s,
                    max_retries=self._config.retries,
                )
            return self._sdk

    def _learn(self, error: Any, format_then: int, refused_then: frozenset[str]) -> bool:
        """Notes which parameter a server refuses; False when its refusal names none that can be left out."""
        said = str(error.message)
        if error.code == "context_length_exceeded" or TOO_LONG.search(said):
            return False
        named = [name for name, words in NAMES.items() if re.search(rf"(?<![a-z_])({words})(?![a-z_])", said, re.I)]
        first = str(error.param or "").split(".")[0]
        named = [first, *named] if first in NAMES else named
        with self._lock:
            if self._format != format_then or self._refused != refused_then:
                return True  # another thread has learned something since; ask again
            for name in named:
                if name == "response_format" and self._format + 1 < len(FORMATS):
                    self._format += 1
                    _log.warning("%s takes no %s; asking for %s", self._at, FORMATS[format_then], FORMATS[self._format])
                    return True
                if name != "response_format" and name not in self._refused:
                    self._refused.add(name)
                    if name == "max_tokens":
                        self._refused.discard("max_completion_tokens")
                    _log.warning("%s refuses %s; asking without it", self._at, name)
                    return True
        return False

    def _refusal(self, error: Any) -> str:
        """Says in one line what a failed request means and what to do."""
        import openai

        config = self._config
        if isinstance(error, openai.APITimeoutError):
            return (
                f"{self._at} gave no answer within {config.timeout_s:g} s, {config.retries + 1} times; raise timeout_s"
            )
        if isinstance(error, openai.APIConnectionError):
            return f"cannot reach {self._at}; start it, or correct base_url"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            held = f"{key_variable(config)} holds a key that it does not take" if self._key else "no key was sent"
            return f"{self._at} refuses access ({error.status_code}): {held}; set key_env to the variable that holds it"
        body = error.body if isinstance(getattr(error, "body", None), dict) else {}
        said = one_line(self._hide(str(body.get("message") or getattr(error, "message", error))))
        if isinstance(error, openai.NotFoundError):
            return f"{self._at} has no model {config.llm!r} (404){self._models()}; set llm, or end base_url in /v1"
        if isinstance(error, openai.RateLimitError | openai.InternalServerError):
            again = "answers so far are kept: the same command goes on from there"
            return f"{self._at} still answers {error.status_code} after {config.retries} retries ({said}); {again}"
        if getattr(error, "code", None) == "context_length_exceeded" or TOO_LONG.search(said):
            return f"the prompt is too long for {config.llm!r} ({said}); show fewer photos or phrases at a time"
        return f"{self._at} refuses the request: {said}"

    def _models(self) -> str:
        """Names the models that a server has, if it says so."""
        import openai

        try:
            names = sorted(model.id for model in self._client().with_options(max_retries=0, timeout=10).models.list())
        except (openai.OpenAIError, AttributeError, TypeError):
            return ""
        return f"; it has {one_line(self._hide(', '.join(names[:10])))}" if names else ""

    def _hide(self, text: str) -> str:
        """Blots the key out of whatever a server says: an answer may repeat what it was sent."""
        return text.replace(self._key, "***") if self._key and len(self._key) >= SECRET_CHARS else text


def key_variable(config: ServerConfig) -> str | None:
    """Returns the environment variable that holds the key; None for a server that is sent none.

    OpenAI's key goes to OpenAI alone, unless the configuration names its variable for another server.
    """
    if config.key_env:
        return config.key_env
    return "OPENAI_API_KEY" if urlsplit(config.base_url).hostname == OPENAI else None


def read_key(config: ServerConfig) -> str | None:
    """Reads the key from the environment.

    Raises:
        ConfigError: there is none where one is needed, or it cannot be one.
    """
    variable = key_variable(config)
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"no key for {config.base_url}: the environment variable {variable} is empty; set it, or go without a "
            "language model: propose.proposer = 'vocabulary'"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the environment variable {variable} holds characters that no key has; set it again")
    return key


def _without_detail(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(message["content"], str):
        return message
    parts = [
        {**part, "image_url": {"url": part["image_url"]["url"]}} if "image_url" in part else part
        for part in message["content"]
    ]
    return {**message, "content": parts}
