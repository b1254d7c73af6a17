"""The corridor: all stages in order, which of their parts are missing, and how one part is made."""

from collections.abc import Callable
from pathlib import Path

from discovery import (
    ablate,
    associate,
    cluster,
    detect,
    embed,
    export,
    fit,
    ingest,
    predict,
    presence,
    propose,
    rank,
    report,
)
from discovery.config import RunConfig
from discovery.errors import ConfigError
from discovery.run import Run, Stage, is_current, part_fingerprint

CORRIDOR: tuple[Stage, ...] = tuple(
    room.STAGE
    for room in (
        ingest,
        fit,
        predict,
        propose,
        detect,
        embed,
        cluster,
        presence,
        associate,
        ablate,
        rank,
        report,
        export,
    )
)
STAGES = {stage.name: stage for stage in CORRIDOR}

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage name, parts done, parts in all)`."""


def plan(run: Run, stage: Stage) -> list[int]:
    """Returns the parts of a stage that are missing or out of date, in the order of their making."""
    outside = stage.outside(run.config)
    shards = range(len(run.parts("samples")) * stage.rounds(run.config)) if stage.sharded else range(1)
    if stage is not CORRIDOR[0]:
        run.drop(stage.table, beyond=len(shards))
    wanted = {shard: part_fingerprint(run, stage, shard if stage.sharded else None, outside) for shard in shards}
    whole = all((run.path / name).is_file() for name in stage.files)
    return [shard for shard, mark in wanted.items() if not (whole and is_current(run.part(stage.table, shard), mark))]


def waves(run: Run, stage: Stage, parts: list[int]) -> list[list[int]]:
    """Returns the parts round by round: those of one round may be made at the same time."""
    n_shards = max(1, len(run.parts("samples")))
    rounds = sorted({part // n_shards for part in parts}) if stage.sharded else [0]
    return [[part for part in parts if part // n_shards == turn or not stage.sharded] for turn in rounds]


def work(run: Run, stage: Stage, shard: int) -> Path:
    """Makes one part of a stage's table and returns its path."""
    at = shard if stage.sharded else None
    mark = part_fingerprint(run, stage, at, stage.outside(run.config))
    frame = stage.work(run, at)
    if stage is not CORRIDOR[0]:
        return run.write(stage.table, frame, shard=shard, fingerprint=mark)
    size = run.config.compute.shard_size
    slices = [frame[start : start + size] for start in range(0, len(frame), size)]
    paths = [run.write(stage.table, part, shard=i, fingerprint=mark) for i, part in enumerate(slices)]
    run.drop(stage.table, beyond=len(paths))
    return paths[0]


def make(run: Run, stage: Stage, progress: Progress = lambda *_: None) -> None:
    """Makes the parts of a stage's table that are missing; `progress` is called as in `discover`."""
    todo = plan(run, stage)
    for done, shard in enumerate(todo):
        progress(stage.name, done, len(todo))
        work(run, stage, shard)
    progress(stage.name, len(todo), len(todo))


def corridor(until: str | None = None) -> tuple[Stage, ...]:
    """Returns the stages up to and with `until`.

    Raises:
        ConfigError: there is no such stage.
    """
    if until is None:
        return CORRIDOR
    if until not in STAGES:
        raise ConfigError(f"unknown stage {until!r}; choose from {', '.join(STAGES)}")
    return CORRIDOR[: CORRIDOR.index(STAGES[until]) + 1]


def discover(
    config: RunConfig,
    run_dir: str | Path | None = None,
    *,
    until: str | None = None,
    fresh: bool = False,
    progress: Progress = lambda *_: None,
) -> Run:
    """Runs the corridor in this process, without Prefect; finished parts are kept and not made again.

    Args:
        config: the run's configuration.
        run_dir: where the tables go; `runs/<name>` in the working directory by default.
        until: the last stage to run; all by default.
        fresh: empty the run directory first.
        progress: called before the first and after each part of a stage that has work to do.

    Returns:
        The run, whose `read("cues")` gives the ranking and whose `path / "report.html"` shows it.
    """
    stages = corridor(until)
    run = Run.create(run_dir or Path("runs") / config.name, config, fresh=fresh)
    for stage in stages:
        make(run, stage, progress)
    return run
