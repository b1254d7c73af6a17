"""The folder of a repair → its steps as a Prefect flow: one task per step, and the outcome among its artifacts."""

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from discovery.retrain import Job, outcome_of, work
from discovery.retrain_page import lead
from discovery.retrain_steps import STEPS
from flows.screen import onlooker, slug

SHOWN = ("label", "phrase", "role", "outcome", "effect_before", "effect_after", "change_q", "gap_before", "gap_after")


@flow(name="retrain", persist_result=False)
def retrain(folder: str) -> str:
    """Carries out every step of a repair that is not done, in order, and shows what became of each cue.

    Args:
        folder: made by `discovery.retrain_job.Job.create`; it holds the configuration and lies in its run.

    Returns:
        The folder.
    """
    for step in STEPS:
        make_step(folder, step)
    job = Job.open(folder)
    facts = outcome_of(job).facts
    name = slug(f"{facts['run']}-{facts['method']}")
    rows = [{column: row[column] for column in SHOWN} for row in facts["cues"]]
    create_table_artifact(key=f"repair-{name}", table=rows, description=f"{facts['run']}, {facts['method']}")
    create_markdown_artifact(key=f"repair-{name}-lead", markdown=lead(facts))
    return folder


@task(task_run_name="{step}", cache_policy=NO_CACHE, persist_result=False)
def make_step(folder: str, step: str) -> None:
    """Carries out one step, unless it is done."""
    work(Job.open(folder), step, onlooker())
