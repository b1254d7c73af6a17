"""The command line: what it prints, where, and with which exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY_CLI = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
import sys
sys.path.insert(0, {folder!r})
import tiny_corridor
tiny_corridor.install()
from flows.cli import app
app()
"""
ROOT = Path(__file__).parents[2]


def start(code: str, *arguments: str) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_run_ends_with_the_path_of_its_report(tiny):
    result = tiny.call("run", tiny.config, "--engine", "plain")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "runs/tiny/report.html"
    assert (tiny.dir / "report.html").is_file()


def test_a_run_shows_the_first_three_cues_of_a_class_with_effect_interval_and_q(tiny):
    printed = tiny.call("run", tiny.config, "--engine", "plain").stdout
    assert "rock 1 [bold]" in printed
    assert "+0.500 [+0.100, –]" in printed
    assert "rock 3" in printed
    assert "rock 4" not in printed


def test_a_long_run_folder_is_printed_on_one_line(tiny, tmp_path):
    folder = tmp_path / ("long " * 40).strip()
    result = tiny.call("run", tiny.config, "--engine", "plain", "--run-dir", str(folder))
    assert result.stdout.splitlines()[-1] == str(folder / "report.html")


def test_quiet_prints_only_the_path(tiny):
    result = tiny.call("run", tiny.config, "--engine", "plain", "--quiet")
    assert result.stdout == "runs/tiny/report.html\n"
    assert result.stderr == ""


def test_until_stops_there_and_prints_the_run_folder(tiny):
    result = tiny.call("run", tiny.config, "--engine", "plain", "--until", "predict")
    assert result.stdout == "runs/tiny\n"
    assert tiny.at.made(tiny.dir) == ["predict-0", "predict-1"]


def test_what_is_finished_is_not_made_again_unless_fresh(tiny):
    arguments = ("run", tiny.config, "--engine", "plain")
    tiny.call(*arguments)
    tiny.call(*arguments)
    assert tiny.at.made(tiny.dir) == ["predict-0", "predict-1", "rank", "report"]
    tiny.call(*arguments, "--set", "rank.level=0.1")
    assert tiny.at.made(tiny.dir)[4:] == ["rank", "report"]
    tiny.call(*arguments, "--fresh")
    assert tiny.at.made(tiny.dir) == ["predict-0", "predict-1", "rank", "report"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--until", "nowhere"], "unknown stage 'nowhere'; choose from ingest, predict"),
        (["--set", "rank.lvel=0.1"], "unknown configuration key 'rank.lvel'"),
        (["--set", "rank.level"], "--set wants key=value"),
        (["--set", "rank.level=2"], "rank.level"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(tiny, arguments, said):
    result = tiny.call("run", tiny.config, "--engine", "plain", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_configuration_names_the_file(tiny):
    result = tiny.call("run", "nowhere.toml")
    assert result.exit_code == 2
    assert "nowhere.toml" in result.stderr


def test_a_data_error_in_a_stage_is_one_line_even_when_its_message_has_two(tiny):
    tiny.call("run", tiny.config, "--engine", "plain", "--until", "ingest")
    tiny.at.break_with(tiny.dir, "data")
    result = tiny.call("run", tiny.config, "--engine", "plain")
    assert result.exit_code == 2
    assert result.stderr == "error: photo 's2.jpg' is broken; replace it\n"


def test_a_bug_keeps_its_traceback(tiny):
    tiny.at.break_with(tiny.dir, "bug")
    result = tiny.call("run", tiny.config, "--engine", "plain")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_an_interrupted_run_says_so_and_goes_on(tiny):
    tiny.at.break_with(tiny.dir, "interrupt")
    result = tiny.call("run", tiny.config, "--engine", "plain")
    assert result.exit_code == 130
    assert result.stderr == "interrupted: finished parts are kept; the same command goes on from there\n"
    tiny.at.mend(tiny.dir)
    tiny.call("run", tiny.config, "--engine", "plain")
    assert tiny.at.made(tiny.dir) == ["predict-0", "interrupt", "predict-1", "rank", "report"]


DEMO = """
name = "demo"
[recipe]
classes = ["zero", "one"]
train_per_class = 4
test_per_class = 2
canvas_px = 64
[[recipe.plants]]
phrase = "stripes"
kind = "texture"
label = "zero"
cramers_v = 0.5
[[recipe.plants]]
phrase = "watermark"
kind = "text"
role = "decoy"
[compute]
shard_size = 2
"""


def test_the_demo_plants_photos_beside_its_run_and_grades_itself(tiny, tmp_path, monkeypatch):
    recipe = tmp_path / "demo.toml"
    recipe.write_text(DEMO)
    monkeypatch.setattr("flows.demo.packaged_file", lambda name: tmp_path / name)
    result = tiny.call("demo", "--engine", "plain")
    assert result.exit_code == 0, result.output
    assert len(list(Path("runs/demo-photos/train/zero").iterdir())) == 4
    assert json.loads(Path("runs/demo/config.json").read_text())["dataset"]["root"] == "runs/demo-photos"
    assert "found 0 of 1 planted cues; 1 of 1 decoys" in result.stdout
    assert "wrongly reported: 5" in result.stdout  # the small corridor names five rocks, none of them planted
    assert result.stdout.splitlines()[-1] == "runs/demo/report.html"


def test_report_renders_again(tiny):
    tiny.call("run", tiny.config, "--engine", "plain")
    (tiny.dir / "report.html").unlink()
    result = tiny.call("report", str(tiny.dir))
    assert result.stdout == "runs/tiny/report.html\n"
    assert (tiny.dir / "report.html").is_file()
    assert tiny.at.made(tiny.dir)[-2:] == ["report", "report"]


def test_cues_prints_json_that_any_parser_reads(tiny):
    tiny.call("run", tiny.config, "--engine", "plain")
    printed = json.loads(tiny.call("cues", str(tiny.dir), "--json").stdout, parse_constant=pytest.fail)
    assert printed["schema_version"] == 1
    assert [cue["rank"] for cue in printed["cues"]] == [1, 2, 3, 4, 5]
    assert printed["cues"][0]["effect_high"] is None


def test_cues_prints_as_many_as_asked(tiny):
    tiny.call("run", tiny.config, "--engine", "plain")
    printed = tiny.call("cues", str(tiny.dir), "--top", "4").stdout
    assert "rock 4" in printed
    assert "rock 5" not in printed


@pytest.mark.parametrize("command", ["report", "cues"])
def test_a_folder_that_is_no_run_is_one_line_and_status_2(tiny, command):
    result = tiny.call(command, "nowhere")
    assert result.exit_code == 2
    assert "no run at nowhere" in result.stderr


def test_a_schedule_without_a_server_says_how_to_start_one(tiny):
    result = tiny.call("serve", tiny.config, "--cron", "0 3 * * *")
    assert result.exit_code == 2
    assert "prefect server start" in result.stderr


def calibrated():
    """What a calibration may say: one cue found at strength 1, missed below, and one false run of twenty."""
    from discovery.calibration import Calibration, Curve, Nulls, Point

    def point(strength, planted, effect, found):
        return Point(strength, planted, effect, found, "no evidence", "red [circle]", planted, planted)

    points = (point(0.0, 0.0, None, False), point(0.5, 0.04, 0.03, False), point(1.0, 0.09, 0.07, True))
    return Calibration(
        name="tiny",
        model="probe",
        seed=0,
        photos=(),
        left_out=("zebra",),
        curves=(Curve("object", "red [circle]", "a", 0.85, 0.99, 0.42, 0.01, points),),
        nulls=Nulls((({"label": "a"},), *[()] * 19)),
        already_there=({"label": "a", "phrase": "cliff", "kind": "background", "effect": 0.2},),
    )


def test_a_calibration_is_shown_and_ends_with_the_path_of_its_file(tiny, monkeypatch):
    asked = []

    def calibrate(*arguments):
        asked.extend(arguments[:3])
        return calibrated()

    monkeypatch.setattr("discovery.calibrate.calibrate", calibrate)
    result = tiny.call("calibrate", tiny.config, "--photos", "30", "--nulls", "5", "--set", "rank.level=0.1")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "runs/tiny-calibration/calibration.json"
    for said in (
        "red [circle] (object)",
        "42%",
        "+0.04→+0.03",
        "+0.09→+0.07*",
        "+0.00→–",
        "smallest planted effect found: +0.09 (red [circle]); largest missed: +0.04 (red [circle])",
        "1 of 20 (at most 22%)",
        "a: cliff (+0.200)",
        "classes left out: zebra",
    ):
        assert said in result.stdout, said
    assert "+0.04→+0.03*" not in result.stdout
    config, folder, effort = asked
    assert (config.rank.level, folder) == (0.1, Path("runs/tiny-calibration"))
    assert (effort.photos, effort.nulls, effort.seed) == (30, 5, 0)
    quiet = tiny.call("calibrate", tiny.config, "--run-dir", "elsewhere", "--quiet")
    assert quiet.stdout == "elsewhere/calibration.json\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "no folder photos; set it: --set dataset.root=FOLDER"), (["--photos", "5"], "--photos 26 or more")],
)
def test_a_calibration_without_enough_photos_is_one_line_and_status_2(tiny, arguments, said):
    result = tiny.call("calibrate", tiny.config, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["run", "demo", "calibrate", "propose", "report", "cues", "explain", "serve", "version"]
)
def test_every_help_has_an_example(tiny, command):
    assert f"Example: discovery {command}" in tiny.call(command, "--help").stdout


def test_help_answers_without_the_heavy_imports():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom flows.cli import app\n"
        "CliRunner().invoke(app, ['--help'])\n"
        "print(sorted({'torch', 'prefect', 'polars', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    assert start(code).communicate(timeout=60)[0].strip() == "[]"


def test_the_plain_engine_never_imports_prefect(tiny):
    code = TINY_CLI.format(folder=str(Path(__file__).parent)).replace(
        "app()", "app(standalone_mode=False)\nprint('prefect' in sys.modules)"
    )
    out, err = start(code, "run", tiny.config, "--engine", "plain").communicate(timeout=120)
    assert out.splitlines()[-2:] == ["runs/tiny/report.html", "False"], err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_a_prefect_run_at_once_and_leaves_no_server_behind(tiny):
    tiny.at.break_with(tiny.dir, "sleep")
    process = start(TINY_CLI.format(folder=str(Path(__file__).parent)), "run", tiny.config)
    try:
        deadline = time.monotonic() + 150
        while "sleep" not in tiny.at.made(tiny.dir) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        err = process.communicate(timeout=20)[1]
        assert process.returncode == 130
        assert err == "interrupted: finished parts are kept; the same command goes on from there\n"
        assert _is_gone(process.pid)
    finally:
        if not _is_gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def _is_gone(group: int) -> bool:
    """Tells whether no process of a group is left, after a moment to end."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
