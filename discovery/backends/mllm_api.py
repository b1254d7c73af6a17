"""Queries → answers of a multimodal LLM behind an OpenAI-compatible server: token probabilities, or its words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from discovery.backends.llm_client import Answer as Said
from discovery.backends.llm_client import Client, image_part, text_part
from discovery.backends.llm_client import Question as Request
from discovery.backends.mllm_questions import Answer, Query, from_text, from_tokens
from discovery.config import MllmConfig
from discovery.errors import BackendError

TOP = 5
"""Alternatives asked for per token: as many as every server that gives any allows."""
STEP = "answers"


class ServedMllm:
    """A multimodal LLM at a server; every answer is kept on disk, so that none is paid for twice."""

    drops_tokens = False

    def __init__(self, config: MllmConfig) -> None:
        self._config, self._client = config, Client(config)

    @property
    def n_calls(self) -> int:
        """Returns the calls that the server was asked for; answers from disk are none."""
        return sum(cost.calls for cost in self._client.costs().values())

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """Answers queries in order.

        Raises:
            BackendError: the server cannot be used, the budget is spent, or tokens should be dropped.
        """
        said = self._client.ask_all(self._requests(queries))
        return [self._read(query, answer) for query, answer in zip(queries, said, strict=True)]

    def n_new(self, queries: Sequence[Query]) -> int:
        """Counts the queries whose answers are not on disk."""
        return sum(not self._client.knows(request) for request in self._requests(queries))

    def _requests(self, queries: Sequence[Query]) -> list[Request]:
        if any(query.hidden is not None for query in queries):
            raise BackendError("no server drops visual tokens; set ask.drop_tokens = false")
        pictures: dict[int, Mapping[str, Any]] = {}  # a photo is encoded once for all its questions
        for query in queries:
            if id(query.image) not in pictures:
                pictures[id(query.image)] = image_part(query.image, self._config.side_px)
        return [
            Request(
                [{"role": "user", "content": [pictures[id(query.image)], text_part(query.question.text)]}],
                step=STEP,
                max_tokens=self._config.answer_tokens,
                top_logprobs=TOP,
                repair=False,
            )
            for query in queries
        ]

    def _read(self, query: Query, said: Said) -> Answer:
        """Reads an answer: by the probabilities of its first token where its words are no other than an option."""
        options = query.question.options
        words = from_text(said.text or said.problem or "", options)
        if not said.top or not said.text or (words.probs is None and len(said.top) > 1):
            return words  # "No doubt there is one" begins with a likely "No"
        tokens = {token: math.exp(value) for token, value in said.top[0]}
        first = from_tokens(said.text, tokens, options, self._config.min_mass)
        return words if first.probs is None else first  # one that thinks aloud does not begin with its answer
