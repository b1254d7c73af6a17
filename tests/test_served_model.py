"""A served model over real HTTP on loopback: what may go wrong between the two."""

import base64
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image
from pytest_httpserver import HTTPServer
from tiny_models import CLASSES, brightness
from werkzeug import Response

from discovery.backends.classifier import load_classifier
from discovery.backends.roles import Head
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError

COMPUTE = ComputeConfig(device="cpu")
VIEWS = [np.full((9, 7, 3), [200, 10, 60], np.uint8), np.full((4, 5, 3), [0, 250, 60], np.uint8)]


@pytest.fixture
def server():
    with HTTPServer(host="127.0.0.1", port=0) as running:
        yield running


def served(server, **options):
    options = {"retries": 2, "timeout_s": 5, **options}
    config = ModelConfig(kind="http", url=server.url_for("/predict"), **options)
    return load_classifier(config, COMPUTE, Head(CLASSES))


def images_of(request) -> list[np.ndarray]:
    return [np.array(Image.open(io.BytesIO(base64.b64decode(one)))) for one in request.get_json()["images"]]


def as_json(content: object, status: int = 200, **headers: str) -> Response:
    return Response(json.dumps(content), status, headers, content_type="application/json")


def test_every_pixel_arrives_and_answers_come_back_in_order(server):
    seen = []

    def answer(request):
        seen.extend(images_of(request))
        return as_json({"probs": brightness(seen).tolist()})

    server.expect_request("/predict", method="POST").respond_with_handler(answer)
    np.testing.assert_allclose(served(server).predict(VIEWS), brightness(VIEWS), atol=1e-12)
    for sent, arrived in zip(VIEWS, seen, strict=True):
        np.testing.assert_array_equal(arrived, sent)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_says_later_is_asked_again(server, status):
    tries = []

    def answer(request):
        tries.append(time.monotonic())
        if len(tries) < 3:
            return as_json({}, status, **{"Retry-After": "0"})
        return as_json({"probs": brightness(VIEWS).tolist()})

    server.expect_request("/predict").respond_with_handler(answer)
    np.testing.assert_allclose(served(server).predict(VIEWS), brightness(VIEWS))
    assert len(tries) == 3


def test_what_keeps_saying_later_is_reported_with_its_answer(server):
    server.expect_request("/predict").respond_with_data("all lines are busy", 503, headers={"Retry-After": "0"})
    with pytest.raises(BackendError, match="answered 503: all lines are busy"):
        served(server).predict(VIEWS)
    assert len(server.log) == 3


def test_columns_are_put_into_the_order_of_the_classes(server):
    answer = {"probs": [[0.1, 0.2, 0.7]] * 2, "classes": ["owl", "cat", "dog"]}
    server.expect_request("/predict").respond_with_handler(lambda _: as_json(answer))
    np.testing.assert_allclose(served(server).predict(VIEWS), [[0.2, 0.7, 0.1]] * 2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda _: Response("<html>hello</html>", 200), "answered no JSON"),
        (lambda _: as_json([1, 2]), r"must answer \{'probs'"),
        (lambda _: as_json({"error": "no GPU"}), "no GPU"),
        (lambda _: as_json({"probs": [[0.5, 0.5]] * 2}), r"shape \(2, 3\), got \(2, 2\)"),
        (lambda _: as_json({"probs": [[0.2, 0.3, 0.5]]}), r"got \(1, 3\)"),
        (lambda _: as_json({"probs": [[0.2, 0.3, 0.9]] * 2}), "sum to 1"),
        (lambda _: as_json({"probs": "cat"}), "array of numbers"),
        (lambda _: as_json({"probs": [[0.5, 0.5, 0]] * 2, "classes": ["a", "b", "c"]}), r"model\.classes"),
        (lambda _: as_json({"detail": "bad token"}, 401), "answered 401.*bad token"),
        (lambda _: as_json({}, 404), "answered 404"),
    ],
)
def test_a_wrong_answer_is_one_line_that_names_it(server, answer, said):
    server.expect_request("/predict").respond_with_handler(answer)
    with pytest.raises(BackendError, match=said) as caught:
        served(server).predict(VIEWS)
    assert "\n" not in str(caught.value)
    assert len(server.log) == 1  # asking again would not help


def test_silence_ends_after_the_timeout(server):
    gate = threading.Event()
    server.expect_request("/predict").respond_with_handler(lambda _: (gate.wait(5), as_json({}))[1])
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"no answer from .* in 1 tries"):
        served(server, timeout_s=0.3, retries=0).predict(VIEWS)
    gate.set()
    assert time.monotonic() - started < 4


def test_a_server_that_is_not_there_is_one_line():
    config = ModelConfig(kind="http", url="http://127.0.0.1:9/predict", retries=1, timeout_s=1)
    with pytest.raises(BackendError, match=r"no answer from http://127\.0\.0\.1:9/predict in 2 tries") as caught:
        load_classifier(config, COMPUTE, Head(CLASSES)).predict(VIEWS)
    assert "\n" not in str(caught.value)


def test_a_token_is_read_from_the_environment_sent_and_never_shown(server, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "secret-of-mine")
    server.expect_request("/predict", headers={"Authorization": "Bearer secret-of-mine"}).respond_with_data("no", 403)
    with pytest.raises(BackendError, match="answered 403") as caught:
        served(server, token_env="MY_TOKEN").predict(VIEWS)
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(BackendError, match="names MY_TOKEN, which is not set"):
        served(server, token_env="MY_TOKEN")
