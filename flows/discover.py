"""A run folder → the corridor as a Prefect flow: one task per stage and shard, paths in and paths out."""

from pathlib import Path

from prefect import flow, task, unmapped
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from discovery.corridor import STAGES, corridor, plan, waves, work
from discovery.run import Run
from flows.screen import onlooker, plain_rows, slug

SHOWN = ("label", "phrase", "kind", "rank", "verdict", "effect", "effect_low", "effect_high", "q_value", "reason")


@flow(name="discover", task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False)
def discover(run_dir: str, until: str | None = None) -> str:
    """Makes every missing part of a run, in corridor order, and shows the ranking on the Prefect server.

    Args:
        run_dir: a folder made by `discovery.run.Run.create`, which holds the configuration.
        until: the last stage to run; all by default.

    Returns:
        The run folder.
    """
    run, progress = Run.open(run_dir), onlooker()
    for stage in corridor(until):
        shards = plan(run, stage)
        done = 0
        for wave in waves(run, stage, shards):
            for part in make_part.map(unmapped(run_dir), unmapped(stage.name), wave):
                progress(stage.name, done, len(shards))
                part.result()
                done += 1
        progress(stage.name, len(shards), len(shards))
        if stage.name == "report":
            publish(run)
    return run_dir


def _is_transient(_: Task, __: TaskRun, state: State) -> bool:
    """Only the operating system's errors, such as a network drive that stumbles, can pass by themselves."""
    return isinstance(state.result(raise_on_failure=False), OSError)


@task(
    task_run_name="{stage}-{shard}",
    cache_policy=NO_CACHE,  # the run's own fingerprints see a changed helper, Prefect's cache does not
    persist_result=False,
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=_is_transient,
)
def make_part(run_dir: str, stage: str, shard: int) -> str:
    """Makes one part of a stage's table and returns its path."""
    return str(work(Run.open(run_dir), STAGES[stage], shard))


def publish(run: Run) -> None:
    """Shows the ranking and a link to the report among the flow run's artifacts."""
    name = slug(run.config.name)
    rows = plain_rows(run.read("cues", columns=list(SHOWN)).sort("label", "rank"))
    create_table_artifact(key=f"cues-{name}", table=rows, description=f"Cues of {run.config.name}")
    report = Path(run.path).absolute() / "report.html"
    create_link_artifact(key=f"report-{name}", link=report.as_uri(), link_text=str(report))
