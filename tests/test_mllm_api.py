"""A multimodal LLM at a server on loopback, with and without token probabilities, well and badly behaved."""

import logging
import math
import time

import numpy as np
import pytest
from chat_server import completion, photo_of, refusal, text_of

from discovery.backends.classifier import load_classifier
from discovery.backends.classifier_mllm import load_mllm
from discovery.backends.mllm_questions import Query, presence_questions
from discovery.backends.roles import Head
from discovery.config import ComputeConfig, MllmConfig, ModelConfig
from discovery.errors import BackendError, ConfigError

COMPUTE = ComputeConfig(device="cpu", batch_size=4)
YES, NO = presence_questions("dog", ["Is there {a_label} in this image?"])
PHOTO = np.full((40, 60, 3), 128, np.uint8)


def tokens(*listed: dict[str, float]) -> dict:
    """Returns logprobs as OpenAI words them: per token its alternatives."""
    return {
        "content": [
            {
                "token": next(iter(place)),
                "logprob": math.log(next(iter(place.values()))),
                "top_logprobs": [{"token": token, "logprob": math.log(prob)} for token, prob in place.items()],
            }
            for place in listed
        ]
    }


@pytest.fixture
def server(fresh_server):
    fresh_server.otherwise = lambda _: "no"
    return fresh_server


@pytest.fixture
def mllm(server, tmp_path):
    def make(**settings):
        given = server.settings(tmp_path) | {"timeout_s": 5.0}
        return load_mllm(MllmConfig(**given | settings), COMPUTE)

    return make


def one(mllm, server, reply, question=YES):
    server.then(reply)
    return mllm().answer([Query(PHOTO, question)])[0]


def test_a_question_is_sent_with_its_photo_and_asks_for_probabilities(mllm, server):
    mllm().answer([Query(PHOTO, YES)])
    (sent,) = server.asked
    assert text_of(sent) == "Is there a dog in this image? Answer yes or no."
    assert photo_of(sent).shape == (40, 60, 3)
    assert (sent["logprobs"], sent["top_logprobs"], sent["temperature"]) == (True, 5, 0.0)


def test_probabilities_are_used_where_there_are_any(mllm, server):
    listed = tokens({"Yes": 0.5, "yes": 0.1, " No": 0.2, "know": 0.1})
    answer = one(mllm, server, completion("Yes", logprobs=listed), NO)
    assert answer.measured
    assert answer.prob(NO, "yes") == pytest.approx(0.75)


def test_words_are_read_where_there_are_none(mllm, server):
    answer = one(mllm, server, "Yes, there is.", NO)
    assert (answer.measured, answer.prob(NO, "yes")) == (False, 1.0)


@pytest.mark.parametrize(
    "reply",
    [
        "I know",
        "Sí, claro",
        "",
        completion("No doubt there is", logprobs=tokens({"No": 0.9, "Yes": 0.1}, {" doubt": 0.9})),
        completion("I", logprobs=tokens({"I": 0.95, "Yes": 0.02})),
        completion(None, refusal="I cannot look at people."),
    ],
)
def test_what_is_no_answer_is_unclear_and_not_asked_again(mllm, server, reply):
    assert one(mllm, server, reply).probs is None
    assert len(server.asked) == 1


def test_one_that_thinks_aloud_is_read_by_its_last_words(mllm, server):
    said = "<think>Is that a dog? No, yes.</think>yes"
    answer = one(mllm, server, completion(said, logprobs=tokens({"<think>": 1.0}, {"Is": 1.0})))
    assert (answer.measured, answer.prob(YES, "yes")) == (False, 1.0)


def test_a_server_without_probabilities_is_asked_without_them_and_it_is_said_once(mllm, server, caplog):
    def answer(body):
        return refusal(400, "logprobs is not supported") if "logprobs" in body else "yes"

    server.otherwise = answer
    with caplog.at_level(logging.WARNING):
        found = mllm(concurrency=1).answer([Query(PHOTO, YES), Query(PHOTO, NO)])
    assert [answer.probs is not None and not answer.measured for answer in found] == [True, True]
    assert sum("logprobs" in record.message for record in caplog.records) == 1


def test_a_slow_and_stumbling_server_loses_nothing_and_keeps_the_order(mllm, server):
    def right(body):
        return "yes" if "no or yes" in text_of(body) else "no"

    def slow(body):
        time.sleep(0.3)
        return right(body)

    server.otherwise = right
    server.then(refusal(429, "slow down"), refusal(500, "oops"), slow, refusal(503, "busy"))
    found = mllm().answer([Query(PHOTO + shade, question) for shade in range(5) for question in (YES, NO)])
    assert [answer.prob(YES, "yes") for answer in found[0::2]] == [0.0] * 5
    assert [answer.prob(NO, "yes") for answer in found[1::2]] == [1.0] * 5


def test_no_answer_is_paid_for_twice(mllm, server):
    queries = [Query(PHOTO, YES), Query(PHOTO, NO)]
    first = mllm()
    assert first.n_new(queries) == 2
    first.answer(queries)
    again = mllm()
    again.answer(queries)
    assert (first.n_calls, again.n_calls, again.n_new(queries), len(server.asked)) == (2, 0, 0, 2)


def test_the_budget_stops_it(mllm):
    with pytest.raises(BackendError, match="max_calls = 1"):
        mllm(max_calls=1, concurrency=1).answer([Query(PHOTO, YES), Query(PHOTO, NO)])


def test_no_server_drops_tokens(mllm):
    with pytest.raises(BackendError, match=r"ask\.drop_tokens = false"):
        mllm().answer([Query(PHOTO, YES, np.ones((40, 60), bool))])


def test_without_a_key_it_is_one_line(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        load_mllm(MllmConfig(llm="gpt-4o-mini"), COMPUTE)


def test_it_is_a_classifier(server, tmp_path):
    server.otherwise = lambda body: "yes" if ("dog" in text_of(body)) == (photo_of(body).mean() > 100) else "no"
    mllm = MllmConfig(llm="tiny", base_url=server.base_url, cache=str(tmp_path / "cache"))
    model = load_classifier(ModelConfig(kind="mllm", mllm=mllm), COMPUTE, Head(("cat", "dog")))
    probs = model.predict([model.view(PHOTO), model.view(np.zeros((20, 20, 3), np.uint8))])
    np.testing.assert_allclose(probs, [[1 / 26, 25 / 26], [25 / 26, 1 / 26]], atol=1e-4)
    assert len(server.asked) == 8
