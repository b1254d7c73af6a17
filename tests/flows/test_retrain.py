"""`discovery retrain`: by both engines, with its exit status, and chained after a run."""

import json

import pytest
from typer.testing import CliRunner

from discovery.repairs import menu
from discovery.retrain_job import Job


def call(*arguments: str):
    from flows.cli import app

    return CliRunner().invoke(app, list(arguments))


def test_it_prints_before_and_after_and_ends_with_the_path_of_the_page(leaning_run):
    result = call("retrain", str(leaning_run.path), "--method", "dfr", "--engine", "plain")
    assert result.exit_code == 0, result.output
    assert "Before → after" in result.stdout
    assert "2 repaired" in result.stdout
    assert result.stdout.splitlines()[-1] == str(leaning_run.path / "repairs" / "dfr" / "repair.html")


def test_a_null_cue_that_got_worse_is_the_first_line_and_exit_status_1(leaning_run, monkeypatch):
    from test_retrain import OTHER_GREEN, leaning_on

    monkeypatch.setitem(menu.REPAIRS, "groupdro", leaning_on(OTHER_GREEN, 12.0))
    result = call("retrain", str(leaning_run.path), "--engine", "plain")
    assert result.exit_code == 1
    assert result.output.startswith("FAILED: after groupdro the model uses")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--method", "magic"), "unknown repair 'magic'"),
        (("--set", "rank.level=0.1"), "changes retrain.* and compute.* alone"),
        (("--set", "retrain.fots=3"), "unknown configuration key 'retrain.fots'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, says, leaning_run):
    result = call("retrain", str(leaning_run.path), "--engine", "plain", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_flow_makes_the_steps_and_shows_the_outcome(leaning_run, prefect_server):
    from prefect.client.orchestration import get_client

    from flows.retrain import retrain

    job = Job.create(leaning_run, leaning_run.config)
    assert retrain(str(job.after.path)) == str(job.after.path)
    assert json.loads((job.after.path / "repair.json").read_text())["method"] == "groupdro"
    with get_client(sync_client=True) as client:
        keys = {artifact.key for artifact in client.read_artifacts()}
    assert {"repair-leaning-groupdro", "repair-leaning-groupdro-lead"} <= keys


def test_a_run_goes_on_with_a_repair(leaning_run, monkeypatch, tmp_path):
    from discovery import corridor

    monkeypatch.setattr(corridor, "plan", lambda *_: [])
    monkeypatch.setattr("flows.engine.plan", lambda *_: [])
    config = tmp_path / "leaning.toml"
    config.write_text(f'[dataset]\nroot = "{leaning_run.config.dataset.root}"\n[retrain]\nmethod = "dfr"\n')
    model = "--set model.kind=python --set model.callable=leaning_model:predict --set model.classes=['cat','dog']"
    result = call(
        *("run", str(config), "--run-dir", str(leaning_run.path), "--engine", "plain", "--then", "retrain"),
        *model.split(" "),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].endswith("repairs/dfr/repair.html")
