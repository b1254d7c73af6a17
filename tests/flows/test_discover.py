"""The Prefect flow: real runs of a small corridor against a real server."""

import asyncio

import pytest

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_the_flow_makes_every_part_and_prints_the_report(tiny):
    result = tiny.call("run", tiny.config)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "runs/tiny/report.html"
    assert tiny.at.made(tiny.dir) == ["predict-0", "predict-1", "rank", "report"]


def test_both_engines_make_the_same_tables(tiny):
    from discovery.run import Run

    tiny.call("run", tiny.config, "--engine", "plain", "--run-dir", "plain")
    tiny.call("run", tiny.config, "--run-dir", "flow")
    plain, flow = Run.open("plain"), Run.open("flow")
    for table in ("samples", "predictions", "cues"):
        assert plain.read(table).equals(flow.read(table))
        assert plain.fingerprint(table) == flow.fingerprint(table)


def test_a_mistake_inside_a_task_is_one_line_and_is_not_tried_again(tiny, capfd):
    tiny.at.break_with(tiny.dir, "data")
    result = tiny.call("run", tiny.config)
    assert result.exit_code == 2
    assert result.stderr == "error: photo 's2.jpg' is broken; replace it\n"
    assert capfd.readouterr().err == ""
    assert tiny.at.made(tiny.dir).count("data") == 1


def test_a_failed_run_goes_on_where_it_stopped(tiny):
    tiny.at.break_with(tiny.dir, "data")
    tiny.call("run", tiny.config)
    tiny.at.mend(tiny.dir)
    assert tiny.call("run", tiny.config).exit_code == 0
    assert tiny.at.made(tiny.dir) == ["predict-0", "data", "predict-1", "rank", "report"]


def test_an_operating_system_that_stumbles_is_tried_again(tiny):
    tiny.at.break_with(tiny.dir, "stumble")
    assert tiny.call("run", tiny.config).exit_code == 0
    assert tiny.at.made(tiny.dir) == ["predict-0", "stumble", "stumble", "predict-1", "rank", "report"]


def test_a_bug_keeps_its_traceback_and_is_not_tried_again(tiny):
    tiny.at.break_with(tiny.dir, "bug")
    result = tiny.call("run", tiny.config)
    assert isinstance(result.exception, ZeroDivisionError)
    assert tiny.at.made(tiny.dir).count("bug") == 1


def test_a_finished_run_does_not_start_prefect(tiny, monkeypatch):
    from flows import engine

    tiny.call("run", tiny.config, "--engine", "plain")
    monkeypatch.setattr(engine, "start_prefect", lambda: pytest.fail("Prefect was started"))
    assert tiny.call("run", tiny.config).exit_code == 0


def test_progress_counts_the_parts_of_every_stage(tiny):
    from discovery.config import read_config
    from flows.engine import Order, create, execute

    seen = []
    run = create(read_config(tiny.config), tiny.dir)
    execute(run, Order(progress=lambda *step: seen.append(step)))
    assert [step for step in seen if step[0] == "predict"] == [("predict", 0, 2), ("predict", 1, 2), ("predict", 2, 2)]


def test_the_server_shows_the_ranking_and_a_link_to_the_report(tiny):
    tiny.call("run", tiny.config, "--set", "name=My_Photos.2")
    artifacts = {a.key: a for a in asyncio.run(_artifacts())}
    assert "report.html" in artifacts["report-my-photos-2"].data
    assert '"effect_high": null' in artifacts["cues-my-photos-2"].data


async def _artifacts():
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        return await client.read_artifacts()


def test_a_schedule_can_send_the_flow_to_a_process_of_its_own():
    import cloudpickle

    import flows.discover

    cloudpickle.register_pickle_by_value(flows.discover)
    try:
        assert cloudpickle.dumps(flows.discover.discover)
    finally:
        cloudpickle.unregister_pickle_by_value(flows.discover)


def test_a_schedule_that_cannot_be_read_is_a_mistake(tiny, monkeypatch):
    from flows import engine

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(engine, "start_prefect", lambda: None)
    result = tiny.call("serve", tiny.config, "--cron", "nightly")
    assert result.exit_code == 2
    assert "--cron wants five fields" in result.stderr
