"""Calls of a language model → what they cost, and a stop before a budget is exceeded."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from discovery.backends.llm_answer import Reply
from discovery.config import ServerConfig
from discovery.errors import BackendError

CHARS_PER_TOKEN = 4
IMAGE_TOKENS = 85
"""Of an image that is sent with low detail to OpenAI's models; other servers count otherwise."""


@dataclass(frozen=True)
class Cost:
    """What a step cost.

    Attributes:
        asked: questions.
        cached: of them answered from disk, at no cost.
        calls: answers that the server gave, those of repairs included.
        repaired: questions asked a second time because the first answer could not be read.
        retried: requests that the server refused for a while (429, 5xx, no answer in time) and that were sent again.
        unanswered: questions without a usable answer in the end.
        tokens_in: of the prompts of `calls`; estimated where the server does not count.
        tokens_out: of their answers; estimated where the server does not count.
    """

    asked: int = 0
    cached: int = 0
    calls: int = 0
    repaired: int = 0
    retried: int = 0
    unanswered: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


def money(cost: Cost, config: ServerConfig) -> float | None:
    """Returns what tokens cost in the currency of the prices; None where a price is unknown."""
    if config.price_in is None or config.price_out is None:
        return None
    return (cost.tokens_in * config.price_in + cost.tokens_out * config.price_out) / 1e6


def tokens_of(messages: object) -> int:
    """Estimates the tokens of messages: a quarter of their characters, and a fixed number per image."""
    if isinstance(messages, Mapping):
        return sum(tokens_of(part) for part in messages.values())
    if isinstance(messages, list | tuple):
        return sum(tokens_of(part) for part in messages)
    text = str(messages)
    return IMAGE_TOKENS if text.startswith("data:") else -(-len(text) // CHARS_PER_TOKEN)


class Ledger:
    """Costs by step, counted by all threads together, against one budget.

    Args:
        config: the budget (`max_calls`, `max_tokens`, `max_money`; 0 for no limit) and the prices.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config, self._lock = config, threading.Lock()
        self._costs: dict[str, Cost] = defaultdict(Cost)
        self._promised = 0

    def costs(self) -> dict[str, Cost]:
        """Returns step → cost, in the order in which the steps began."""
        with self._lock:
            return dict(self._costs)

    def note(self, step: str, **counts: int) -> None:
        """Adds to the cost of a step."""
        with self._lock:
            self._costs[step] += Cost(**counts)

    def reserve(self, step: str, tokens: int) -> None:
        """Counts a call that is about to be made.

        Args:
            step: that it belongs to.
            tokens: of its prompt, estimated.

        Raises:
            BackendError: the budget does not allow it.
        """
        with self._lock:
            self._refuse_beyond(tokens)
            self._promised += tokens
            self._costs[step] += Cost(calls=1)

    def settle(self, step: str, tokens: int, reply: Reply | None) -> None:
        """Replaces what was reserved by what the server counted; without a reply the call was none."""
        with self._lock:
            self._promised -= tokens
            if reply is None:
                self._costs[step] = replace(self._costs[step], calls=self._costs[step].calls - 1)
                return
            spent_in = tokens if reply.tokens_in is None else reply.tokens_in
            spent_out = tokens_of(reply.text) if reply.tokens_out is None else reply.tokens_out
            self._costs[step] += Cost(tokens_in=spent_in, tokens_out=spent_out, retried=reply.retries)

    def _refuse_beyond(self, tokens: int) -> None:
        config, so_far = self._config, sum(self._costs.values(), Cost())
        usual = so_far.tokens_out // max(so_far.calls, 1)  # an answer's length is known only when it is there
        ahead = replace(
            so_far, tokens_in=so_far.tokens_in + self._promised + tokens, tokens_out=so_far.tokens_out + usual
        )
        spent = money(ahead, config)
        for name, value, limit in (
            ("max_calls", so_far.calls + 1, config.max_calls),
            ("max_tokens", ahead.tokens_in + ahead.tokens_out, config.max_tokens),
            ("max_money", spent or 0.0, config.max_money),
        ):
            if limit and value > limit:
                raise BackendError(
                    f"the next question would exceed {name} = {limit:g} after {so_far.calls} calls and "
                    f"{so_far.tokens_in + so_far.tokens_out} tokens; raise it: answers so far are kept and cost "
                    "nothing again"
                )
