"""An OpenAI-compatible server on loopback that answers as a test tells it to, well or badly."""

import base64
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # its line per request would stand among a command's own

Reply = Response | str
"""A whole response, or the text of an answer."""


def completion(
    text: str | None, *, finish: str = "stop", tokens: tuple[int, int] | None = (100, 20), **message
) -> Response:
    """Returns a chat completion as OpenAI's server words it; `logprobs` goes beside the message."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    if "logprobs" in message:
        choice["logprobs"] = choice["message"].pop("logprobs")
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice]}
    if tokens:
        total = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        body["usage"] = total
    return Response(json.dumps(body), content_type="application/json")


def refusal(status: int, message: str, *, headers: dict | None = None, **error) -> Response:
    """Returns an error as OpenAI's server words it."""
    body = json.dumps({"error": {"message": message, "type": "error", **error}})
    return Response(
        body, status=status, content_type="application/json", headers={"retry-after": "0.05"} | (headers or {})
    )


def late(seconds: float, reply: Reply) -> Callable[[dict], Reply]:
    """Returns an answer that takes its time."""

    def answer(_: dict) -> Reply:
        time.sleep(seconds)
        return reply

    return answer


def photo_of(body: dict) -> np.ndarray:
    """Returns the photo of a request as (H, W, 3) uint8."""
    (url,) = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def text_of(body: dict) -> str:
    """Returns the text that goes with the photo of a request."""
    (text,) = [part["text"] for part in body["messages"][0]["content"] if part["type"] == "text"]
    return text


class ChatServer:
    """Answers from a queue, then always by `otherwise`; keeps every request.

    Attributes:
        asked: bodies of the requests, in order of arrival.
        headers: of the same requests.
        otherwise: body → reply, once the queue is empty.
        tokens: body, text of an answer → its tokens in and out, where a reply is text alone.
        billed: tokens in and out of every completion that was sent.
        models: names that it says it has; with none it does not say.
    """

    def __init__(self, http: HTTPServer) -> None:
        self.base_url, self.port = http.url_for("/v1"), http.port
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.otherwise: Callable[[dict], Reply] = lambda _: "{}"
        self.models: list[str] = []
        self.tokens: Callable[[dict, str], tuple[int, int]] = lambda *_: (100, 20)
        self.billed: list[tuple[int, int]] = []
        self._queue: list[Reply | Callable[[dict], Reply]] = []
        self._lock = threading.Lock()
        http.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._answer)
        http.expect_request("/v1/models").respond_with_handler(self._list)

    def settings(self, folder: Path) -> dict[str, str]:
        """Returns what a configuration says of this server; answers are kept below `folder`."""
        return {"llm": "tiny", "base_url": self.base_url, "cache": str(folder / "cache")}

    def then(self, *replies: Reply | Callable[[dict], Reply]) -> None:
        """Queues replies for the next requests."""
        self._queue += replies

    def forget(self) -> None:
        """Begins anew, for the next test."""
        self.asked.clear()
        self.headers.clear()
        self.models.clear()
        self.billed.clear()
        self._queue.clear()

    def _list(self, _: Request) -> Response:
        if not self.models:
            return refusal(404, "no such path")
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in self.models]
        return Response(json.dumps({"object": "list", "data": data}), content_type="application/json")

    def _answer(self, request: Request) -> Response:
        body = request.get_json()
        with self._lock:
            self.asked.append(body)
            self.headers.append(dict(request.headers))
            reply = self._queue.pop(0) if self._queue else self.otherwise
        reply = reply(body) if callable(reply) and not isinstance(reply, Response) else reply
        response = completion(reply, tokens=self.tokens(body, reply)) if isinstance(reply, str) else reply
        usage = (response.get_json(silent=True) or {}).get("usage") if response.status_code == 200 else None
        with self._lock:
            self.billed += [(usage["prompt_tokens"], usage["completion_tokens"])] if usage else []
        return response


@contextmanager
def chat_server(port: int = 0) -> Iterator[ChatServer]:
    """Runs a server on a port of 127.0.0.1, a free one by default."""
    with HTTPServer(host="127.0.0.1", port=port, threaded=True) as http:
        yield ChatServer(http)
