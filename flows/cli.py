"""The command line: arguments → a run, its ranking as a table, and the path of its report as the last line."""

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.ending import polite
from flows.screen import show as _show

if TYPE_CHECKING:
    from discovery.config import RunConfig
    from discovery.run import Run
    from flows.engine import Order

app = typer.Typer(
    help="Finds the spurious cues that an image model relies on, class by class.",
    epilog="Example: discovery demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Then(StrEnum):
    """What follows a run."""

    RETRAIN = "retrain"


class Engine(StrEnum):
    """Who carries out the stages."""

    PREFECT = "prefect"
    PLAIN = "plain"


Config = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's configuration.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder, such as runs/bar.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides any field.")]
RunFolder = Annotated[Path | None, typer.Option("--run-dir", help="Run folder; runs/<name> by default.")]
EngineOption = Annotated[Engine, typer.Option("--engine", help="plain: without Prefect, starts at once.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Parts made at the same time (Prefect).")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Empty the run folder first.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the path.")]


@app.command(epilog="Example: discovery run data/bar.toml --set rank.level=0.1")
def run(
    config: Config,
    overrides: Overrides = None,
    run_dir: RunFolder = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="The last stage to run.")] = None,
    fresh: Fresh = False,
    engine: EngineOption = Engine.PREFECT,
    workers: Workers = 1,
    then: Annotated[Then | None, typer.Option("--then", help="Go on with a repair of the model.")] = None,
    quiet: Quiet = False,
) -> None:
    """Runs the corridor on your photos; finished parts are kept and never made again."""
    with polite():
        from discovery.config import read_config
        from discovery.corridor import corridor
        from flows.engine import Order, create, execute
        from flows.screen import progress_bars, ranking

        settings = read_config(config, overrides)
        reached = {stage.name for stage in corridor(until)}
        made = create(settings, run_dir, fresh=fresh)
        order = Order(engine=engine.value, until=until, workers=workers)
        with progress_bars(quiet=quiet) as progress:
            execute(made, replace(order, progress=progress))
        if "rank" in reached and not quiet:
            _show(ranking(made.read("cues"), per_class=3))
        if then is None:
            _last_line(made, report="report" in reached)
        else:
            _repair(made, settings, order, quiet=quiet)


@app.command(epilog="Example: discovery demo --run-dir runs/demo --engine plain")
def demo(
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Run folder; photos go beside it.")] = Path("runs/demo"),
    engine: EngineOption = Engine.PREFECT,
    quiet: Quiet = False,
) -> None:
    """Plants cues in generated photos, runs everything on them and grades itself."""
    with polite():
        from flows.demo import demo as run_demo
        from flows.engine import Order, create, execute
        from flows.screen import grading, progress_bars, ranking

        with progress_bars(quiet=quiet) as progress:
            order = Order(engine=engine.value, progress=progress)
            made, grade = run_demo(run_dir, lambda config, folder: execute(create(config, folder), order))
        if not quiet:
            _show(ranking(made.read("cues"), per_class=3))
            _show(*grading(grade))
        _last_line(made, report=True)


@app.command(epilog="Example: discovery calibrate photos.toml --photos 90")
def calibrate(
    config: Config,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="runs/<name>-calibration by default.")] = None,
    photos: Annotated[int, typer.Option("--photos", min=1, help="Photos per class at most.")] = 60,
    nulls: Annotated[int, typer.Option("--nulls", min=0, help="Runs in which nothing is there to be found.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the photos and of what is drawn on them.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Plants cues in a copy of your photos: how small a one is found, and how often one that is not there?"""
    with polite():
        from discovery.calibrate import Effort
        from discovery.calibrate import calibrate as measure
        from discovery.config import read_config
        from flows.screen import calibration, progress_bars

        settings = read_config(config, overrides)
        folder = run_dir or Path("runs") / f"{settings.name}-calibration"
        with progress_bars(quiet=quiet) as progress:
            made = measure(settings, folder, Effort(photos, nulls, seed), progress)
        if not quiet:
            _show(*calibration(made))
        typer.echo(str(folder / "calibration.json"))


@app.command(epilog="Example: discovery propose photos.toml --dry-run")
def propose(
    config: Config,
    overrides: Overrides = None,
    run_dir: RunFolder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate calls, tokens and money.")] = False,
    quiet: Quiet = False,
) -> None:
    """Proposes the candidate cues of every class and says what they cost, or would cost."""
    with polite():
        from discovery.config import read_config
        from flows import proposing
        from flows.engine import create
        from flows.screen import progress_bars

        settings = read_config(config, overrides)
        if dry_run:
            _show(*proposing.dry_run(settings, run_dir))
            return
        with progress_bars(quiet=quiet) as progress:
            made = proposing.propose(create(settings, run_dir), progress)
        if not quiet:
            _show(*proposing.proposals(made))
        _last_line(made, report=False)


@app.command(epilog="Example: discovery retrain runs/bar --method reweight")
def retrain(
    run_dir: RunDir,
    method: Annotated[str | None, typer.Option("--method", help="A repair by name; retrain.method by default.")] = None,
    overrides: Overrides = None,
    engine: EngineOption = Engine.PREFECT,
    quiet: Quiet = False,
) -> None:
    """Repairs the model of a finished run and audits it again; exit status 1 when it leans on an unused cue now."""
    with polite():
        from discovery.config import override
        from discovery.run import Run
        from flows.engine import Order

        made = Run.open(run_dir)
        chosen = ([f"retrain.method={method}"] if method else []) + (overrides or [])
        settings = override(made.config, chosen, ("retrain", "compute"))
        _repair(made, settings, Order(engine=engine.value), quiet=quiet)


@app.command(epilog="Example: discovery report runs/bar")
def report(run_dir: RunDir) -> None:
    """Renders the report of a run again and prints its path."""
    with polite():
        from discovery.corridor import STAGES, work
        from discovery.run import Run

        made = Run.open(run_dir)
        work(made, STAGES["report"], 0)
        _last_line(made, report=True)


@app.command(epilog="Example: discovery cues runs/bar --json | jq '.cues[0]'")
def cues(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    top: Annotated[int, typer.Option("--top", min=1, help="Cues shown per class.")] = 10,
) -> None:
    """Prints the ranking of a run."""
    with polite():
        from discovery.run import Run
        from discovery.schema import SCHEMA_VERSION
        from flows.screen import plain_rows, ranking

        table = Run.open(run_dir).read("cues")
        if as_json:
            rows = plain_rows(table.sort("label", "rank"))
            typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "cues": rows}, indent=2, ensure_ascii=False))
        else:
            _show(ranking(table, per_class=top))


@app.command(epilog="Example: discovery ask runs/bar --set model.mllm.checkpoint=/models/llava --dry-run")
def ask(
    run_dir: RunDir,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the questions and what they cost.")] = False,
    quiet: Quiet = False,
) -> None:
    """Asks a multimodal LLM about the cues of a finished run: what it sees with them, and what it makes up."""
    with polite():
        from discovery.asking import FILE, ask_run, estimate
        from discovery.config import change_config
        from discovery.run import Run
        from flows.asked import perception, questions
        from flows.screen import progress_bars

        made = Run.open(run_dir)
        made = Run(made.path, change_config(made.config, overrides or []))
        if dry_run:
            _show(questions(estimate(made)))
            return
        with progress_bars(quiet=quiet) as progress:
            found = ask_run(made, progress)
        if not quiet:
            _show(perception(found))
        typer.echo(str(made.path / FILE))


@app.command(epilog="Example: discovery explain photo.jpg --run runs/bar")
def explain(
    photo: Annotated[Path, typer.Argument(metavar="IMAGE", help="The photo, of the run or any other.")],
    run_dir: Annotated[Path, typer.Option("--run", metavar="RUN_DIR", help="The run whose model is asked.")],
    label: Annotated[str | None, typer.Option("--label", help="The class; the model's answer by default.")] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Shows the smallest part of a photo without which the model answers something else."""
    with polite():
        from flows import explaining

        found, page = explaining.explain(photo, run_dir, label, overrides or [])
        if not quiet:
            _show(*explaining.explained(found))
        typer.echo(str(page))


@app.command(epilog="Example: discovery serve photos.toml --cron '0 3 * * *'")
def serve(
    config: Config,
    cron: Annotated[str, typer.Option("--cron", help="When to run, in cron's five fields.")],
    overrides: Overrides = None,
    run_dir: RunFolder = None,
) -> None:
    """Runs a configuration on a schedule, through a running Prefect server (PREFECT_API_URL)."""
    with polite():
        from discovery.config import read_config
        from flows.engine import create, schedule

        settings = read_config(config, overrides)
        schedule(create(settings, run_dir), cron)


@app.command(epilog="Example: discovery version")
def version() -> None:
    """Prints the version."""
    from discovery import __version__

    typer.echo(__version__)


def _repair(made: "Run", settings: "RunConfig", order: "Order", *, quiet: bool) -> None:
    """Repairs, and ends with status 1, saying so first and last, when a cue that was not used became worse."""
    from flows.engine import repair
    from flows.screen import progress_bars
    from flows.screen import repair as table

    with progress_bars(quiet=quiet) as progress:
        outcome = repair(made, settings, replace(order, progress=progress))
    if outcome.failure:
        typer.echo(outcome.failure, err=True)
    if not quiet:
        _show(*table(outcome))
    typer.echo(str(outcome.folder / "repair.html"))
    if outcome.failure:
        raise typer.Exit(1)


def _last_line(made: "Run", *, report: bool) -> None:
    """Prints the path of the report, or of the run folder when the run stopped before; never wrapped."""
    typer.echo(str(made.path / "report.html" if report else made.path))
