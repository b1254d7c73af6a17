"""Questions to a language model → answers in order: from disk, or asked once, repaired once, counted and kept."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

import numpy as np
from pydantic import BaseModel

from discovery.backends.llm_answer import Reply, one_line, read_model
from discovery.backends.llm_budget import Cost, Ledger, tokens_of
from discovery.backends.llm_cache import Cache, Messages, request_hash
from discovery.backends.llm_server import Server
from discovery.config import ServerConfig
from discovery.errors import BackendError, ConfigError
from discovery.images import thumbnail_data_url

QUOTED = 2_000
"""Characters of a wrong answer that a repair quotes."""


@dataclass(frozen=True)
class Question:
    """What a model is asked.

    Attributes:
        messages: of a chat; content is text, or a list of `text_part` and `image_part`.
        schema: pydantic model that the answer must fit (lists of objects, no dicts); None for free text.
        step: under which it is counted.
        max_tokens: of the answer; twice as many when a cut one is asked again.
        temperature: 0 for the likeliest answer.
        seed: of the server's own draw.
        top_logprobs: alternatives wanted per token of the answer; 0 for none.
        check: tells in one line what is wrong with a parsed answer; None when nothing is.
        repair: ask once more when the answer cannot be used; False where the first answer is what is measured.
    """

    messages: Messages
    schema: type[BaseModel] | None = None
    step: str = "ask"
    max_tokens: int = 2_000
    temperature: float = 0.0
    seed: int = 0
    top_logprobs: int = 0
    check: Callable[[BaseModel], str | None] = lambda _: None
    repair: bool = True


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: the raw answer.
        parsed: as `Question.schema`; None for free text, and where there is no usable answer.
        problem: why the answer cannot be used, or what `check` still finds wrong; None when all is well.
        prompt_hash: of the question; the name of its file in the cache.
        top: see `Reply.top`; None where they were not wanted or the server gives none.
    """

    text: str
    parsed: BaseModel | None
    problem: str | None
    prompt_hash: str
    top: tuple[tuple[tuple[str, float], ...], ...] | None = None


class Client:
    """A language model behind an OpenAI-compatible server; connects with the first question that is not on disk.

    Args:
        config: server, model, key, cache and budget.

    Raises:
        ConfigError: no model is named, or there is no key where one is needed.
    """

    def __init__(self, config: ServerConfig) -> None:
        if not config.llm:
            raise ConfigError('a language model needs its name: set llm, such as llm = "gpt-4o-mini"')
        self.config = config
        self._cache, self._ledger = Cache(config.cache), Ledger(config)
        self._server = Server(config)

    def costs(self) -> dict[str, Cost]:
        """Returns step → what its questions cost so far."""
        return self._ledger.costs()

    def file_of(self, answer: Answer) -> str:
        """Returns where an answer is kept, for a message to the user."""
        return str(self._cache.path(answer.prompt_hash) or "nowhere, as there is no cache")

    def knows(self, question: Question) -> bool:
        """Tells whether a question is answered on disk."""
        return self._cache.get(self._hash(question)) is not None

    def ask_all(self, questions: Iterable[Question]) -> list[Answer]:
        """Asks many questions, `concurrency` at a time; answers come in the order of the questions.

        Raises:
            BackendError: the server cannot be used, or the budget is spent; answers so far are kept.
        """
        asked = [(Future(), question) for question in questions]
        waiting = deque(asked)

        def work() -> None:
            with suppress(IndexError):
                while True:
                    future, question = waiting.popleft()
                    with _Into(future):
                        future.set_result(self.ask(question))

        # Daemons: an interruption does not wait for a server that says nothing.
        threads = [Thread(target=work, name=f"llm_{i}", daemon=True) for i in range(self.config.concurrency)]
        for thread in threads:
            thread.start()
        try:
            return [_result(future) for future, _ in asked]
        except BackendError:
            waiting.clear()
            for thread in threads:
                thread.join()  # what is under way is paid for: wait for it and keep it
            raise
        finally:
            waiting.clear()

    def ask(self, question: Question) -> Answer:
        """Asks one question, and once more if its answer cannot be used.

        Raises:
            BackendError: the server cannot be used, or the budget is spent.
        """
        self._ledger.note(question.step, asked=1)
        reply, was_kept = self._reply(question)
        parsed, problem = _read(reply, question)
        if problem and question.repair:
            repaired, also_kept = self._reply(_repair(question, reply, problem))
            self._ledger.note(question.step, repaired=1)
            was_kept = was_kept and also_kept
            again, still = _read(repaired, question)
            if still is None or parsed is None:  # a second answer is worth having unless it is worse
                reply, parsed, problem = repaired, again, still
        lost = problem is not None and parsed is None
        self._ledger.note(question.step, cached=int(was_kept), unanswered=int(lost))
        return Answer(reply.text, parsed, problem, self._hash(question), reply.top)

    def _reply(self, question: Question) -> tuple[Reply, bool]:
        """Returns the reply to one request, and whether it was on disk."""
        key = self._hash(question)
        kept = self._cache.get(key)
        if kept is not None:
            return kept, True
        tokens = tokens_of(question.messages)
        self._ledger.reserve(question.step, tokens)
        reply = None
        try:
            reply = self._server.send(question.messages, question.schema, _parameters(question))
        finally:
            self._ledger.settle(question.step, tokens, reply)
        asked = {"model": self.config.llm, "messages": list(question.messages), "parameters": _named(question)}
        self._cache.put(key, asked, reply)
        return reply, False

    def _hash(self, question: Question) -> str:
        return question_hash(str(self.config.llm), question)


class _Into:
    """Hands what a block raises to a future, whose reader raises it again."""

    def __init__(self, future: "Future[Answer]") -> None:
        self._future = future

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            self._future.set_exception(error)
        return True


def _result(future: "Future[Answer]") -> Answer:
    while wait([future], timeout=0.5).not_done:
        pass  # a wait without end may not notice Ctrl-C
    return future.result()


def question_hash(model: str, question: Question) -> str:
    """Returns the name under which the answer to a question is kept."""
    return request_hash(model, question.messages, _named(question))


def text_part(text: str) -> dict[str, Any]:
    """Returns text as a part of a message's content."""
    return {"type": "text", "text": text}


def image_part(image: np.ndarray, side_px: int) -> dict[str, Any]:
    """Returns (H, W, 3) uint8 as a part of a message's content: a JPEG whose longer side has at most `side_px`."""
    return {"type": "image_url", "image_url": {"url": thumbnail_data_url(image, side_px), "detail": "low"}}


def _parameters(question: Question) -> dict[str, Any]:
    wanted = {"temperature": question.temperature, "seed": question.seed, "max_tokens": question.max_tokens}
    return wanted | ({"logprobs": True, "top_logprobs": question.top_logprobs} if question.top_logprobs else {})


def _named(question: Question) -> dict[str, Any]:
    """Returns the parameters and the schema, as the cache knows a question by them."""
    schema = question.schema.model_json_schema() if question.schema else None
    return _parameters(question) | {"schema": schema}


def _read(reply: Reply, question: Question) -> tuple[BaseModel | None, str | None]:
    if question.schema is None:
        return None, f"the model refused: {one_line(reply.refusal)}" if reply.refusal else None
    found = read_model(reply, question.schema)
    return (None, found) if isinstance(found, str) else (found, question.check(found))


def _repair(question: Question, reply: Reply, problem: str) -> Question:
    """Returns the question with its wrong answer and what is wrong with it; a cut one is only given more room."""
    if reply.finish == "length":
        return _with(question, question.messages, 2 * question.max_tokens)
    plea = f"That answer cannot be used: {problem}. Answer again with what was asked for, and with nothing else."
    said = {"role": "assistant", "content": reply.text[:QUOTED] or "(nothing)"}
    return _with(question, [*question.messages, said, {"role": "user", "content": plea}], question.max_tokens)


def _with(question: Question, messages: Sequence[Any], max_tokens: int) -> Question:
    return replace(question, messages=messages, max_tokens=max_tokens)
