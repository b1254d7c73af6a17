"""The client of language models against a real server on loopback that answers well, badly, late, or not at all."""

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FunctionType
from typing import Literal

import numpy as np
import pytest
from chat_server import completion, late, refusal
from pydantic import BaseModel, ConfigDict
from werkzeug import Response

from discovery.backends.llm_answer import Reply, read_model, read_reply
from discovery.backends.llm_budget import money, tokens_of
from discovery.backends.llm_client import Client, Question, image_part, text_part
from discovery.config import ServerConfig
from discovery.errors import BackendError, ConfigError

KEY = "sk-very-secret-key-0123456789"
GOOD = '{"things": [{"name": "rock", "kind": "object"}]}'


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    kind: Literal["object", "background"]


class Things(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    things: list[Thing]


@pytest.fixture
def server(fresh_server):
    fresh_server.otherwise = lambda _: GOOD
    return fresh_server


@pytest.fixture
def client(server, tmp_path):
    def make(**settings):
        given = server.settings(tmp_path) | {"timeout_s": 5.0}
        return Client(ServerConfig(**given | settings))

    return make


def question(text="what is seen with climbing?", **more):
    return Question([{"role": "user", "content": text}], **{"schema": Things} | more)


def names(answer):
    return [thing.name for thing in answer.parsed.things] if answer.parsed else None


# --- a good answer ---


def test_a_question_is_sent_with_its_strict_schema_and_answered_as_a_model(client, server):
    answer = client().ask(question())
    assert (names(answer), answer.problem) == (["rock"], None)
    sent = server.asked[0]
    assert (sent["model"], sent["temperature"], sent["seed"], sent["max_tokens"]) == ("tiny", 0.0, 0, 2000)
    form = sent["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["additionalProperties"] is False


def test_the_same_question_is_answered_from_disk_by_another_client_at_no_cost(client, server):
    first = client().ask(question())
    again = client()
    assert again.knows(question())
    assert again.ask(question()) == first
    assert len(server.asked) == 1
    cost = again.costs()["ask"]
    assert (cost.asked, cost.cached, cost.calls, cost.tokens_in) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    "other",
    [question("another"), question(temperature=1.0), question(seed=1), question(schema=Thing), question(max_tokens=9)],
    ids=["text", "temperature", "seed", "schema", "max_tokens"],
)
def test_whatever_changes_the_question_is_another_one(client, other):
    mine = client()
    mine.ask(question())
    assert not mine.knows(other)


def test_another_model_is_asked_anew(client):
    client().ask(question())
    assert not client(llm="large").knows(question())


def test_the_raw_answer_is_kept_as_it_came_with_images_as_their_hash(client, server):
    server.then("```json\n" + GOOD + "\n```")
    image = np.zeros((40, 80, 3), np.uint8)
    asked = Question([{"role": "user", "content": [text_part("this?"), image_part(image, 20)]}], Things)
    mine = client()
    answer = mine.ask(asked)
    kept = json.loads(Path(mine.file_of(answer)).read_text())
    assert kept["reply"]["text"] == "```json\n" + GOOD + "\n```"
    assert kept["asked"]["messages"][0]["content"][1]["image_url"]["url"].startswith("image sha256 ")
    url = server.asked[0]["messages"][0]["content"][1]["image_url"]
    assert url["url"].startswith("data:image/jpeg;base64,")
    assert "detail" not in url  # only OpenAI's own server is known to take it


def test_many_questions_are_answered_in_their_order_whatever_the_order_of_arrival(client, server):
    def echo(body):
        number = int(body["messages"][0]["content"])
        return late(0.1 if number % 3 == 0 else 0, GOOD.replace("rock", f"rock {number}"))(body)

    server.otherwise = echo
    answers = client(concurrency=4).ask_all(question(str(i)) for i in range(10))
    assert [names(answer) for answer in answers] == [[f"rock {i}"] for i in range(10)]


def test_free_text_comes_with_the_log_probabilities_that_were_asked_for(client, server):
    place = {
        "token": "Yes",
        "logprob": -0.1,
        "top_logprobs": [{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -2}],
    }
    server.then(completion("Yes", logprobs={"content": [place]}))
    asked = question(schema=None, top_logprobs=2, max_tokens=1)
    for _ in range(2):  # from the server, then from disk
        answer = client().ask(asked)
        assert (answer.text, answer.parsed, answer.problem) == ("Yes", None, None)
        assert answer.top == ((("Yes", -0.1), ("No", -2.0)),)
    assert (server.asked[0]["logprobs"], server.asked[0]["top_logprobs"]) == (True, 2)
    assert "response_format" not in server.asked[0]


# --- answers that need reading with care ---


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! Here you are:\n```\n{GOOD}\n```\nAnything else?",
        f"<think>maybe {{'things': 1}} or {{}}</think>\n{GOOD}",
        f'I thought of {{"other": 1}} first. {GOOD} Done.',
    ],
)
def test_json_is_found_in_fences_after_thoughts_and_amid_prose(text):
    assert read_model(Reply(text), Things) == Things.model_validate_json(GOOD)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(GOOD[:-9], "length"), "cut off"),
        (Reply(GOOD[:-9]), "does not fit"),
        (Reply(f"<think>{GOOD}"), "<think>"),
        (Reply("  "), "empty"),
        (Reply("No."), "does not fit"),
        (Reply("", refusal="I cannot\nhelp"), "refused: I cannot help"),
        (Reply('{"things": [{"name": "rock", "kind": "sound"}]}'), "things.0.kind"),
        (Reply('{"things": [{"name": 3, "kind": "object"}]}'), "things.0.name"),
        (Reply('{"things": [], "run": "rm -rf"}'), "run: Extra inputs"),
        (Reply('[{"name": "rock", "kind": "object"}]'), "does not fit"),
        (Reply("{" * 100_000), "does not fit"),
        (Reply('{"things":' * 50_000), "does not fit"),
    ],
)
def test_what_is_no_answer_is_said_in_one_line(reply, why):
    found = read_model(reply, Things)
    assert isinstance(found, str)
    assert why in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "body", ["<html>", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": [1]}}]}', "[" * 99_999]
)
def test_a_body_that_is_no_completion_is_none(body):
    assert read_reply(body) is None


def test_ten_thousand_items_emoji_and_quotes_are_read():
    things = [{"name": f'"{i}" 🧗 \\ \ud83d', "kind": "object"} for i in range(10_000)]
    reply = read_reply(
        json.dumps({"choices": [{"message": {"content": json.dumps({"things": things}, ensure_ascii=False)}}]})
    )
    found = read_model(reply, Things)
    assert isinstance(found, str) or len(found.things) == 10_000


# --- repair ---


@pytest.mark.parametrize("bad", ["no JSON at all", '{"things": "rock"}', completion(None, refusal="I am sorry")])
def test_an_answer_that_cannot_be_used_is_asked_for_once_more_with_what_is_wrong(client, server, bad):
    server.then(bad)
    mine = client()
    answer = mine.ask(question())
    assert (names(answer), answer.problem) == (["rock"], None)
    said = [message["role"] for message in server.asked[1]["messages"]]
    assert said == ["user", "assistant", "user"]
    assert "cannot be used" in server.asked[1]["messages"][2]["content"]
    cost = mine.costs()["ask"]
    assert (cost.asked, cost.calls, cost.repaired, cost.unanswered) == (1, 2, 1, 0)
    assert client().ask(question()) == answer
    assert len(server.asked) == 2


def test_a_cut_answer_is_asked_for_again_with_twice_the_room(client, server):
    server.then(completion(GOOD[:20], finish="length"))
    assert names(client().ask(question(max_tokens=50))) == ["rock"]
    assert [body["max_tokens"] for body in server.asked] == [50, 100]
    assert len(server.asked[1]["messages"]) == 1


def test_two_bad_answers_are_reported_with_the_raw_one_kept(client, server):
    server.then("first nonsense", "second nonsense")
    mine = client()
    answer = mine.ask(question())
    assert answer.parsed is None
    assert "does not fit" in answer.problem
    assert answer.text == "second nonsense"
    assert "first nonsense" in Path(mine.file_of(answer)).read_text()
    assert mine.costs()["ask"].unanswered == 1
    assert client().ask(question()) == answer  # and a re-run is told the same without a call
    assert len(server.asked) == 2


def test_an_answer_that_the_check_refuses_is_repaired_but_never_for_a_worse_one(client, server):
    def many(found):
        return None if len(found.things) > 1 else "one is too few"

    server.then(GOOD, "worse")
    answer = client().ask(question(check=many))
    assert (names(answer), answer.problem) == (["rock"], "one is too few")
    two = '{"things": [{"name": "a", "kind": "object"}, {"name": "b", "kind": "object"}]}'
    server.then(GOOD, two)
    assert names(client().ask(question("again", check=many))) == ["a", "b"]


# --- a server that stumbles ---


@pytest.mark.parametrize("stumble", [refusal(429, "slow down"), refusal(500, "oops"), refusal(503, "loading")])
def test_a_server_that_stumbles_is_asked_again(client, server, stumble):
    server.then(stumble, stumble)
    mine = client()
    assert names(mine.ask(question())) == ["rock"]
    assert len(server.asked) == 3
    cost = mine.costs()["ask"]
    assert (cost.calls, cost.retried, cost.tokens_in, cost.tokens_out) == (1, 2, 100, 20)


def test_retry_after_is_waited_for(client, server):
    server.then(refusal(429, "slow down", headers={"retry-after": "0.4"}))
    start = time.monotonic()
    client().ask(question())
    assert time.monotonic() - start >= 0.4


def test_silence_is_waited_out_and_asked_again(client, server):
    server.then(late(1.0, GOOD))
    assert names(client(timeout_s=0.3).ask(question())) == ["rock"]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal(429, "quota exceeded"), "still answers 429 after 1 retries (quota exceeded); answers so far are kept"),
        (refusal(500, "oops"), "still answers 500"),
        (refusal(404, "The model `tiny` does not exist"), "has no model 'tiny' (404)"),
        (refusal(401, f"Incorrect API key provided: {KEY}"), "refuses access (401): MY_KEY holds a key"),
        (refusal(403, "no"), "refuses access (403)"),
        (
            refusal(400, "This model's maximum context length is 99 tokens; max_tokens is 2000"),
            "the prompt is too long",
        ),
        (refusal(400, "too much", code="context_length_exceeded"), "the prompt is too long"),
        (refusal(400, f"odd {KEY}\n body"), "refuses the request: odd *** body"),
        (late(0.5, GOOD), "gave no answer within 0.2 s, 2 times"),
        (Response("<html>hello</html>"), "does not answer as an OpenAI-compatible server; check base_url"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_server_that_refuses_is_one_line_without_the_key(client, server, monkeypatch, reply, said):
    monkeypatch.setenv("MY_KEY", KEY)
    server.otherwise = reply if isinstance(reply, FunctionType) else lambda _: reply
    with pytest.raises(BackendError) as caught:
        client(key_env="MY_KEY", retries=1, timeout_s=0.2).ask(question())
    assert said in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_key_that_an_answer_repeats_is_kept_nowhere(client, server, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    server.then(GOOD.replace("rock", KEY))
    with caplog.at_level(logging.DEBUG):
        answer = client(key_env="MY_KEY").ask(question())
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert names(answer) == ["***"]
    assert KEY not in caplog.text
    assert not [file for file in tmp_path.rglob("*.json") if KEY in file.read_text()]


def test_an_unknown_model_is_answered_with_those_that_there_are(client, server):
    server.models = ["small", "big"]
    server.then(refusal(404, "model not found"))
    with pytest.raises(BackendError, match=r"has no model 'tiny' \(404\); it has big, small; set llm"):
        client().ask(question())


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(BackendError, match=rf"cannot reach the server at {url}; start it, or correct base_url"):
            Client(ServerConfig(llm="tiny", base_url=url, retries=0)).ask(question())


def test_answers_before_a_failure_are_kept(client, server):
    server.then(GOOD, GOOD, refusal(500, "oops"))
    mine = client(retries=0, concurrency=1)
    with pytest.raises(BackendError, match="answers so far are kept"):
        mine.ask_all(question(str(i)) for i in range(4))
    again = client(retries=0, concurrency=1)
    assert len(again.ask_all(question(str(i)) for i in range(4))) == 4
    cost = again.costs()["ask"]
    assert cost.cached >= 2  # the fourth may have been under way when the third failed
    assert cost.cached + cost.calls == 4


def test_a_mistake_of_the_program_reaches_the_one_who_asked(client):
    def broken(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client().ask_all([question(), question("b", check=broken)])


ASK = """
import sys
from discovery.backends.llm_client import Client, Question
from discovery.config import ServerConfig
Client(ServerConfig(llm="tiny", base_url=sys.argv[1])).ask_all([Question([{"role": "user", "content": "?"}])] * 3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_does_not_wait_for_a_server_that_says_nothing(server):
    hold = threading.Event()
    server.otherwise = lambda _: "late" if hold.wait(60) else ""
    process = subprocess.Popen([sys.executable, "-c", ASK, server.base_url], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not server.asked and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
        assert time.monotonic() - start < 20  # its time limit is 60 s, six times over
    finally:
        hold.set()
        process.kill()


# --- the dialects of servers ---


def parameter(name, status=400):
    return refusal(status, f"Unsupported parameter: '{name}' is not supported with this model.", param=name)


def test_a_server_without_json_schema_is_asked_for_a_json_object_and_then_for_text_and_that_is_said_once(
    client, server, caplog
):
    server.then(
        refusal(400, "response_format type json_schema is not supported"),
        refusal(400, "'response_format.type' must be 'text'"),
    )
    mine = client()
    assert names(mine.ask(question())) == ["rock"]
    assert names(mine.ask(question("more"))) == ["rock"]
    forms = [(body.get("response_format") or {"type": None})["type"] for body in server.asked]
    assert forms == ["json_schema", "json_object", None, None]
    assert len([r for r in caplog.records if r.name.startswith("discovery")]) == 2


@pytest.mark.parametrize(
    "refused",
    ["seed", "temperature", "max_tokens", "logprobs", "top_logprobs"],
)
def test_a_refused_parameter_is_left_out_and_that_is_said_once(client, server, caplog, refused):
    def picky(body):
        return parameter(refused, 422) if refused in body else GOOD

    server.otherwise = picky
    mine = client()
    asked = {"top_logprobs": 2, "schema": None}
    assert mine.ask(question(**asked)).text == GOOD
    assert mine.ask(question("more", **asked)).text == GOOD
    assert [refused in body for body in server.asked] == [True, False, False]
    assert [r.getMessage() for r in caplog.records if r.name.startswith("discovery")] == [
        f"the server at {server.base_url} refuses {refused.removeprefix('top_')}; asking without it"
    ]
    assert client().knows(question(**asked))  # a question is known by what was wanted, not by what a server took


def test_the_other_name_for_the_length_of_an_answer_is_tried(client, server):
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    server.otherwise = lambda body: refusal(400, said, param="max_tokens") if "max_tokens" in body else GOOD
    assert names(client().ask(question())) == ["rock"]
    assert server.asked[-1]["max_completion_tokens"] == 2000


def test_a_server_that_refuses_everything_is_given_up(client, server):
    server.otherwise = lambda _: refusal(400, "bad response_format, seed, temperature, max_tokens")
    with pytest.raises(BackendError, match="refuses the request"):
        client().ask(question())
    assert len(server.asked) < 12


def test_usage_that_a_server_does_not_count_is_estimated(client, server):
    server.then(completion(GOOD, tokens=None))
    mine = client()
    asked = question()
    mine.ask(asked)
    cost = mine.costs()["ask"]
    assert (cost.tokens_in, cost.tokens_out) == (tokens_of(asked.messages), tokens_of(GOOD))


# --- key, model, budget ---


def test_openais_own_server_needs_a_key_and_names_the_way_without(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY is empty; set it, or go .* propose.proposer = 'vocabulary'"):
        Client(ServerConfig(llm="tiny"))


def test_openais_key_goes_to_no_other_server(client, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client().ask(question())
    assert KEY not in json.dumps(server.headers)


def test_a_key_of_odd_characters_is_refused_without_being_shown(client, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-\u201cquoted\u201d")
    with pytest.raises(ConfigError, match="MY_KEY holds characters that no key has") as caught:
        client(key_env="MY_KEY")
    assert "quoted" not in str(caught.value)


def test_a_model_must_be_named(client):
    with pytest.raises(ConfigError, match="set llm"):
        client(llm=None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": "127.0.0.1:8000"}, "no scheme or no host"),
        ({"base_url": f"http://me:{KEY}@host/v1"}, "must hold no key"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "must hold no key"),
        ({"max_money": 1}, "max_money needs price_in"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, said):
    from discovery.config import make_config

    with pytest.raises(ConfigError, match=said) as caught:
        make_config({"dataset": {"root": "x"}, "propose": settings})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "made"),
    [
        ({"max_calls": 2}, 2),
        ({"max_tokens": 250}, 2),
        ({"max_money": 0.0003, "price_in": 1, "price_out": 2}, 2),
        ({}, 5),
    ],
)
def test_a_budget_stops_before_it_is_exceeded(client, server, limit, made):
    mine = client(concurrency=1, **limit)
    asked = [question(str(i)) for i in range(5)]
    if limit:
        with pytest.raises(BackendError, match=f"would exceed {next(iter(limit))} = .* after 2 calls and 240 tokens"):
            mine.ask_all(asked)
    else:
        mine.ask_all(asked)
    assert len(server.asked) == made


def test_money_follows_the_prices_per_million_tokens(client, server):
    mine = client(price_in=2.0, price_out=10.0)
    mine.ask(question())
    cost = mine.costs()["ask"]
    assert money(cost, mine.config) == pytest.approx((100 * 2 + 20 * 10) / 1e6)
    assert money(cost, ServerConfig()) is None


def test_a_cache_that_cannot_be_written_is_one_line(client, server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="cannot keep answers in"):
        client(cache=str(tmp_path / "file")).ask(question())


def test_a_damaged_answer_on_disk_is_asked_for_again(client, server):
    mine = client()
    path = Path(mine.file_of(mine.ask(question())))
    path.write_text(path.read_text()[:40])
    assert names(client().ask(question())) == ["rock"]
    assert len(server.asked) == 2
