"""A planted recipe → photos with known cues, a whole run on them, and the run's own grade."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from discovery.config import RunConfig, make_config
from discovery.run import Run
from discovery.vocabulary import packaged_file

if TYPE_CHECKING:
    from discovery.grade import Grade


def demo(run_dir: Path, run_corridor: Callable[[RunConfig, Path], Run]) -> "tuple[Run, Grade]":
    """Plants cues, runs the corridor on the photos and compares what it reports with what was planted.

    Args:
        run_dir: the run folder; the photos go beside it, into `<run_dir>-photos`.
        run_corridor: makes the run of a configuration in a folder.

    Returns:
        The run and its grade.
    """
    from discovery.grade import grade
    from discovery.planted import plant, read_recipe

    values = tomllib.loads(packaged_file("demo.toml").read_text(encoding="utf-8"))
    del values["recipe"]
    photos = run_dir.with_name(f"{run_dir.name}-photos")
    planted = plant(read_recipe(packaged_file("demo.toml")), photos)
    values["dataset"] = {**values.get("dataset", {}), "root": str(photos)}
    run = run_corridor(make_config(values), run_dir)
    return run, grade(run.read("cues"), run.read("presences"), planted)
