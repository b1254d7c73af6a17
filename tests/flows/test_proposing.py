"""`discovery propose` against a server on loopback: the estimate, the attributes, what they cost, and mistakes."""

import json
import os
import shutil
from pathlib import Path

import pytest
from chat_server import chat_server, completion, refusal
from pretend_llm import BadServer, PretendModel
from typer.testing import CliRunner

from flows.cli import app

KEY = "sk-very-secret-key-0123456789"
CUES = {
    "cat": {
        "objects": [("sofa", "object"), ("[red]ball[/red] :smile:", "object")],
        "backgrounds": [("carpet", "texture")],
    },
    "dog": {"backgrounds": [("grass field", "background")]},
}


def row(result, name):
    """Returns the cells of the row of a printed table that has this word in it."""
    line = next(line for line in result.stdout.splitlines() if name in line and "│" in line)
    return [cell.strip() for cell in line.split("│")[1:-1]]


@pytest.fixture
def server():
    with chat_server() as running:
        running.otherwise = PretendModel(CUES, parts=frozenset({"sofa"}))
        yield running


@pytest.fixture
def call(server, make_photos, tmp_path, monkeypatch):
    """Returns `call(*arguments)`, which runs `discovery propose` on two classes of ten tiny photos."""
    root = make_photos(n=10)
    monkeypatch.chdir(tmp_path)
    Path("two.toml").write_text(
        f'[dataset]\nroot = "{root}"\n[propose]\nproposer = "openai"\nllm = "tiny"\nbase_url = "{server.base_url}"\n'
        "computed = false\nretries = 1\nprice_in = 10.0\nprice_out = 100.0\n"
    )
    return lambda *arguments: CliRunner().invoke(app, ["propose", "two.toml", *arguments])


def test_attributes_are_printed_with_marks_and_what_they_cost(call):
    result = call()
    assert result.exit_code == 0, result.output
    assert row(result, "sofa") == [
        "cat", "sofa", "object", "openai", "no", "yes", "yes", "no", "objects: often there"
    ]  # fmt: skip
    assert "[red]ball[/red] :smile:" in result.stdout  # words of a model are no markup
    # 16 questions and 2 filters, each 100 tokens in and 20 out
    assert row(result, "total") == [
        "total", "18", "0", "18", "0", "0", "0", "1,800", "360", "0.0540"
    ]  # fmt: skip
    assert result.stdout.splitlines()[-1] == "runs/two"
    made = {path.name for path in Path("runs/two/tables").iterdir()}
    assert made == {"samples", "attributes"}


def test_a_fresh_run_costs_nothing_and_gives_the_same_list(call, server):
    first = call().stdout
    asked = len(server.asked)
    shutil.rmtree("runs/two")
    result = call()
    again = result.stdout
    assert len(server.asked) == asked
    assert [line for line in again.splitlines() if "often there" in line] == [
        line for line in first.splitlines() if "often there" in line
    ]
    assert row(result, "total")[:4] == ["total", "18", "18", "0"]
    assert row(result, "total")[-1] == "0.0000"


def test_a_bad_server_costs_what_it_answered_and_loses_nothing(call, server):
    good = call("--run-dir", "good/two").stdout
    server.otherwise = bad = BadServer(server.otherwise, ("cut", "wrong", "500", "fenced", "thoughts"))
    spoilt = call().stdout
    assert [line for line in spoilt.splitlines() if "often there" in line] == [
        line for line in good.splitlines() if "often there" in line
    ]
    steps = json.loads(Path("runs/two/propose_costs.json").read_text())["steps"].values()
    repairs, again = bad.spoilt["cut"] + bad.spoilt["wrong"], bad.spoilt["500"]
    assert sum(step["calls"] for step in steps) == 18 + repairs
    assert sum(step["repaired"] for step in steps) == repairs > 0
    assert sum(step["retried"] for step in steps) == again > 0
    assert sum(step["tokens_in"] for step in steps) == 100 * (18 + repairs)
    assert sum(step["unanswered"] for step in steps) == 0


def test_a_dry_run_asks_nobody_and_makes_nothing(call, server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    result = call("--dry-run", "--set", "propose.base_url=https://api.openai.com/v1")
    assert result.exit_code == 0, result.output
    assert server.asked == []
    assert not Path("runs").exists()
    assert row(result, "questions")[1:3] == ["0", "16"]
    assert row(result, "filters")[1:3] == ["?", "8"]  # 128 phrases at most, 40 at once, for two classes
    assert row(result, "total")[2] == "24"


def test_the_estimate_counts_prompts_as_they_are_then_sent_and_bounds_answers(call, server):
    good = server.otherwise
    server.otherwise = lambda body: completion(good(body), tokens=None)  # so that both are counted alike
    cells = row(call("--dry-run"), "questions")
    call()
    spent = json.loads(Path("runs/two/propose_costs.json").read_text())["steps"]["questions"]
    assert cells[3] == f"{spent['tokens_in']:,}"
    usual, at_most = (int(end.replace(",", "")) for end in cells[4].split(" – "))
    assert spent["tokens_out"] < usual < at_most == 16 * 16 * 60
    low, high = map(float, cells[5].split(" – "))
    assert high == pytest.approx((spent["tokens_in"] * 10 + at_most * 100) / 1e6, abs=1e-4)
    assert low < high


def test_a_dry_run_counts_what_is_on_disk(call):
    call()
    result = call("--dry-run")
    assert row(result, "questions")[1:4] == ["16", "0", "0"]


def test_an_unknown_price_is_said(call):
    Path("two.toml").write_text(Path("two.toml").read_text().replace("price_out = 100.0\n", ""))
    for arguments in (["--dry-run"], []):
        result = call(*arguments)
        assert "unknown" in result.stdout
        assert "set propose.price_in and propose.price_out" in result.stdout


def test_an_offline_proposer_costs_nothing(call, tmp_path):
    (tmp_path / "mine.txt").write_text("snow\n")
    mine = ("--set", "propose.proposer=file", "--set", f"propose.file={tmp_path}/mine.txt")
    assert "2 classes; the proposer 'file' asks no server" in call("--dry-run", *mine).stdout
    result = call(*mine)
    assert "listed by the user" in result.stdout
    assert "money" not in result.stdout


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), "refuses access (401)"),
        (refusal(404, "no such model"), "has no model 'tiny'"),
        (refusal(429, f"quota of {KEY} exceeded"), "still answers 429"),
        (refusal(400, "too long", code="context_length_exceeded"), "too long"),
        (f"I may not tell {KEY}", "no answer about the class 'cat' can be used"),
    ],
    ids=["401", "404", "429", "400", "prose"],
)
def test_a_server_that_refuses_is_one_line_and_status_2_and_the_key_is_nowhere(call, server, monkeypatch, reply, said):
    monkeypatch.setenv("MY_KEY", KEY)
    server.otherwise = lambda _: reply
    result = call("--set", "propose.key_env=MY_KEY")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert KEY not in result.output + result.stderr
    files = [Path(folder) / name for folder, _, names in os.walk(".") for name in names]
    assert files
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


def test_no_key_names_the_offline_proposer(call, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    result = call("--set", "propose.key_env=MY_KEY")
    assert result.exit_code == 2
    assert "the environment variable MY_KEY is empty" in result.stderr
    assert "propose.proposer = 'vocabulary'" in result.stderr


def test_a_budget_is_kept_and_a_higher_one_goes_on(call, server):
    result = call("--set", "propose.max_calls=5")
    assert result.exit_code == 2
    assert "would exceed max_calls = 5" in result.stderr
    assert len(server.asked) == 5
    call("--set", "propose.max_calls=13")
    assert len(server.asked) == 18
