"""The small corridor and one Prefect server for all tests of the shell."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

from discovery import corridor

TINY = Path(__file__).with_name("tiny_corridor.py")


@pytest.fixture(scope="session")
def tiny_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_corridor", TINY)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_corridor"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tiny_module, tmp_path, monkeypatch) -> Iterator[SimpleNamespace]:
    """The small corridor in place of the real one, in an empty working directory.

    `tiny.call(*arguments)` runs the command line and returns its result; `tiny.dir` is the run folder.
    """
    real = corridor.CORRIDOR
    monkeypatch.chdir(tmp_path)
    tiny_module.install()
    config = tiny_module.write_config(tmp_path)
    yield SimpleNamespace(dir=Path("runs/tiny"), config=str(config), call=_call, at=tiny_module)
    corridor.CORRIDOR = real
    corridor.STAGES.clear()
    corridor.STAGES.update({stage.name: stage for stage in real})


def _call(*arguments: str):
    from flows.cli import app

    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server with a database of its own; starting it takes seconds, so all tests share it."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield
