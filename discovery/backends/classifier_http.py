"""A served model → the model under audit: PNG images in, probabilities out, over HTTP.

POST `model.url` with {"images": ["<base64 of a PNG>", …]}; the answer is {"probs": [[…], …]}, one row per image, and
may hold "classes": […], the names of its columns. PNG, as a lossy format would blur what an intervention changed.
"""

import base64
import io
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from discovery.backends.extras import needed
from discovery.backends.roles import Head, check_probs
from discovery.backends.views import WholeImage
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError

TRIED_AGAIN = (408, 429, 500, 502, 503, 504)
"""Answers after which the same question is asked again."""
CONNECT_S = 10


class HttpClassifier:
    """A served model; it sees whole photos, and what it does with them is its own affair.

    Questions are asked again with growing pauses (or when the server says so) on broken connections, timeouts and
    answers that say "later": `model.retries` times.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, head: Head) -> None:
        urllib3 = needed("urllib3", "http")
        whole = WholeImage()
        self.classes, self.view, self.field = head.classes, whole.view, whole.field
        self._config = config
        retry = urllib3.Retry(
            config.retries,
            allowed_methods=None,  # a question changes nothing: it may be asked twice
            status_forcelist=TRIED_AGAIN,
            backoff_factor=0.5,
            backoff_jitter=0.25,
            raise_on_status=False,
        )
        timeout = urllib3.Timeout(connect=min(CONNECT_S, config.timeout_s), read=config.timeout_s)
        self._pool = urllib3.PoolManager(retries=retry, timeout=timeout)
        self._headers = {"Content-Type": "application/json", **_token(config)}

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        if not len(views):
            return np.empty((0, len(self.classes)))
        answer = self._ask({"images": [_png(view) for view in views]})
        if not isinstance(answer, dict) or "probs" not in answer:
            raise BackendError(f"{self._config.url} must answer {{'probs': [[…], …]}}, got {str(answer)[:120]}")
        probs, named = answer["probs"], answer.get("classes")
        if named is None:
            return check_probs(probs, len(views), self.classes)
        if not isinstance(named, list) or sorted(map(str, named)) != sorted(self.classes):
            known = ", ".join(self.classes[:8])
            raise BackendError(f"{self._config.url} answers for {str(named)[:120]}, not for {known}; set model.classes")
        order = [list(map(str, named)).index(name) for name in self.classes]
        return check_probs(probs, len(views), tuple(map(str, named)))[:, order]

    def _ask(self, question: dict[str, Any]) -> Any:
        from urllib3.exceptions import HTTPError, MaxRetryError

        url = self._config.url or ""
        try:
            answer = self._pool.request("POST", url, body=json.dumps(question), headers=self._headers)
        except MaxRetryError as error:
            raise BackendError(f"no answer from {url} in {self._config.retries + 1} tries: {error.reason}") from error
        except HTTPError as error:
            raise BackendError(f"no answer from {url}: {error}") from error
        if answer.status != 200:
            said = answer.data[:200].decode("utf-8", "replace")
            raise BackendError(f"{url} answered {answer.status}: {' '.join(said.split())}")
        try:
            return json.loads(answer.data)
        except ValueError as error:
            raise BackendError(f"{url} answered no JSON: {answer.data[:80]!r}") from error


def _token(config: ModelConfig) -> dict[str, str]:
    if not config.token_env:
        return {}
    token = os.environ.get(config.token_env)
    if not token:
        raise BackendError(f"model.token_env names {config.token_env}, which is not set in the environment")
    return {"Authorization": f"Bearer {token}"}


def _png(view: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(view).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")
