"""A finished run + a repair → the repaired model, and the same cues audited again: `repair.json` and `repair.html`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discovery.backends.classifier import model_state
from discovery.config import RunConfig
from discovery.retrain_audit import WORSE
from discovery.retrain_job import Job
from discovery.retrain_steps import STEPS
from discovery.run import Run, code_hash, hash_of

READ = ("samples", "heads", "predictions", "regions", "presences", "associations", "effects", "cues", "groups")

Progress = Callable[[str, int, int], None]
"""Called as `progress(step, done, total)`."""


@dataclass(frozen=True)
class Outcome:
    """What a repair did.

    Attributes:
        folder: of the repair.
        facts: what its `repair.json` holds.
    """

    folder: Path
    facts: dict[str, Any]

    @property
    def failure(self) -> str | None:
        """Names the null cues that became worse; None when none did."""
        worse = [f"{row['label']}: {row['phrase']}" for row in self.facts["cues"] if row["outcome"] == WORSE]
        if not worse:
            return None
        return (
            f"FAILED: after {self.facts['method']} the model uses {len(worse)} cue(s) that it was shown not to use "
            f"before: {'; '.join(worse)}"
        )


def retrain(run: Run, config: RunConfig | None = None, progress: Progress = lambda *_: None) -> Outcome:
    """Repairs the model of a finished run and audits the same cues, and null cues, again.

    Args:
        run: finished; nothing in it is changed, results go to `<run>/repairs/<method>`.
        config: the run's configuration with other settings of `retrain`; its own by default.
        progress: called before and within each step that is not done yet.

    Raises:
        DataError: there is nothing to repair, or a class has no photo to fit on or to judge by.
        BackendError: the model cannot be repaired this way, or the repair diverged.
    """
    job = Job.create(run, config or run.config)
    for step in STEPS:
        work(job, step, progress)
    return outcome_of(job)


def outcome_of(job: Job) -> Outcome:
    """Reads back what a finished repair did."""
    return Outcome(job.after.path, json.loads((job.after.path / "repair.json").read_text(encoding="utf-8")))


def due(job: Job) -> list[str]:
    """Returns the steps that are not done, in order."""
    done = _marks(job)
    for number, (name, step) in enumerate(STEPS.items()):
        there = all((job.after.path / file).exists() for file in step.files)
        if not there or done.get(name) != _mark(job, name):
            return list(STEPS)[number:]
    return []


def work(job: Job, step: str, progress: Progress = lambda *_: None) -> None:
    """Carries out one step of a repair, unless it is done; what was made of an older one is taken away first."""
    if step not in due(job):
        return
    progress(step, 0, 1)
    for file in STEPS["show"].files:
        (job.after.path / file).unlink(missing_ok=True)
    earlier = list(STEPS)[: list(STEPS).index(step)]
    kept = {name: mark for name, mark in _marks(job).items() if name in earlier}
    STEPS[step].work(job, lambda done, total: progress(step, done, total))
    job.after.write_text("steps.json", json.dumps(kept | {step: _mark(job, step)}, indent=1))
    progress(step, 1, 1)


def _marks(job: Job) -> dict[str, str]:
    file = job.after.path / "steps.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _mark(job: Job, step: str) -> str:
    """Returns what a step must carry to be up to date: code, settings, and the tables of the run."""
    config = job.before.config
    parts = [config.retrain, config.ablate, config.rank, config.dataset, Run.open(job.before.path).config.model]
    tables = [job.before.fingerprint(table) for table in READ]
    dumps = [part.model_dump(mode="json") for part in parts]
    return hash_of([code_hash("discovery.retrain"), dumps, tables, config.seed, model_state(config.model), step])
