"""A configuration and the choice of an engine → a finished run; Prefect is set up for quiet work without a network."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from discovery.config import RunConfig
from discovery.corridor import Progress, corridor, discover, plan
from discovery.errors import BackendError, ConfigError
from discovery.retrain import Outcome, due, outcome_of, retrain
from discovery.retrain_job import Job
from discovery.run import Run
from flows.ending import Abandoned
from flows.screen import ONLOOKER, silent

Engine = Literal["prefect", "plain"]

PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its own 20 s are too few on a busy machine
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}
"""What Prefect reads when it is imported; a value that the user set is left alone."""


@dataclass(frozen=True)
class Order:
    """How a run is to be carried out; none of it changes a result.

    Attributes:
        engine: `prefect` or `plain`.
        until: the last stage to run; all by default.
        workers: parts made at the same time, with Prefect; torch already uses every core for one.
        progress: called before the first and after each part.
    """

    engine: Engine = "prefect"
    until: str | None = None
    workers: int = 1
    progress: Progress = silent


def execute(run: Run, order: Order) -> Run:
    """Makes every missing part of a run with the engine that was asked for.

    Raises:
        ConfigError: there is no stage `order.until`.
        BackendError: Prefect's server cannot be started or reached.
    """
    stages = corridor(order.until)
    if not any(plan(run, stage) for stage in stages):
        return run  # a finished run answers at once: starting Prefect would take longer than looking
    if order.engine == "plain":
        discover(run.config, run.path, until=order.until, progress=order.progress)
    else:
        _run_prefect(run, order)
    return run


def repair(run: Run, config: RunConfig, order: Order) -> Outcome:
    """Repairs the model of a finished run and audits it again, with the engine that was asked for.

    Raises:
        DataError, BackendError: as `discovery.retrain.retrain`; or Prefect's server cannot be started or reached.
    """
    job = Job.create(run, config)
    if order.engine == "plain" or not due(job):
        return retrain(run, config, order.progress)
    _reach_prefect(order)
    from flows.retrain import retrain as flow

    _tell_failures_once()
    _apart(partial(flow, str(job.after.path)))
    return outcome_of(job)


def create(config: RunConfig, run_dir: Path | None, *, fresh: bool = False) -> Run:
    """Makes or reopens the run folder: `runs/<name>` in the working directory by default."""
    return Run.create(run_dir or Path("runs") / config.name, config, fresh=fresh)


def _reach_prefect(order: Order) -> None:
    order.progress("prefect", 0, 1)
    start_prefect()
    order.progress("prefect", 1, 1)
    ONLOOKER.set(order.progress)


def _run_prefect(run: Run, order: Order) -> None:
    _reach_prefect(order)
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.discover import discover as flow

    _tell_failures_once()
    workers = ThreadPoolTaskRunner(max_workers=order.workers)
    _apart(partial(flow.with_options(task_runner=workers), str(run.path), order.until))


def _apart(call: Callable[[], object]) -> None:
    """Calls in a thread of its own, so that an interruption arrives here and not inside Prefect.

    There it would first wait for the part being made and for a server that the same key has ended.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flow")
    try:
        flow = thread.submit(copy_context().run, call)
        while wait([flow], timeout=0.5).not_done:
            pass  # polars restarts an interrupted system call, so a wait without end would not notice Ctrl-C
        flow.result()
    except KeyboardInterrupt as stop:
        _stop_own_server()
        raise Abandoned from stop
    finally:
        thread.shutdown(wait=False)


def _stop_own_server() -> None:
    from prefect.server.api.server import SubprocessASGIServer

    SubprocessASGIServer().stop()  # the one that Prefect started in this process; nothing with PREFECT_API_URL


def start_prefect() -> None:
    """Imports Prefect with its settings in place and waits until its server answers.

    Raises:
        BackendError: it does not.
    """
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            client.hello()
    except (RuntimeError, httpx.HTTPError) as error:
        raise BackendError(
            f"Prefect's server does not answer ({error}); check PREFECT_API_URL, or run with --engine plain"
        ) from error


def _tell_failures_once() -> None:
    """Keeps Prefect's account of a failed part off the terminal: the exception itself arrives there anyway."""
    for handler in logging.getLogger().handlers:
        if type(handler).__name__ == "PrefectConsoleHandler" and _is_news not in handler.filters:
            handler.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    echoes = record.name.startswith(("prefect.flow_runs", "prefect.task_runs", "prefect.engine"))
    return not (echoes and record.levelno >= logging.ERROR)


def schedule(run: Run, cron: str) -> None:
    """Serves a run on a schedule until it is stopped; every time, only what is out of date is made again.

    Raises:
        ConfigError: there is no Prefect server to keep the schedule, or it cannot be read.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigError(
            "a schedule needs a Prefect server: start one with `prefect server start` "
            "and set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    start_prefect()
    from prefect.client.schemas.schedules import CronSchedule

    from flows.discover import discover as flow

    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise ConfigError(f"--cron wants five fields such as '0 3 * * *', got {cron!r}") from error
    folder = str(run.path.absolute())
    flow.serve(name=run.config.name, cron=cron, parameters={"run_dir": folder}, pause_on_shutdown=False)
