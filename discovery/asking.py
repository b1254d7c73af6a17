"""A finished run → what a multimodal LLM is asked about its cues, what that costs, and `perception.json`."""

import json
from dataclasses import dataclass

import polars as pl

from discovery import ask, perceive
from discovery.ask import Asked, check_model, questions_for
from discovery.backends.classifier_mllm import run_questions
from discovery.backends.llm_budget import IMAGE_TOKENS, Cost, money, tokens_of
from discovery.config import RunConfig
from discovery.corridor import Progress, make
from discovery.draws import DROPPED, check_draws, read_draws
from discovery.errors import ConfigError
from discovery.run import Run
from discovery.schema import SCHEMA_VERSION

STAGES = (ask.STAGE, perceive.STAGE)
FILE = "perception.json"


@dataclass(frozen=True)
class Estimate:
    """What asking costs at most; answers that a server's cache holds cost nothing.

    Attributes:
        photos: that are asked about.
        questions: about them, by probe; each is one call or one forward pass.
        per_cue: questions divided by the number of cues.
        cost: at a server, tokens estimated; None for a local model.
        money: in the currency of the prices; None where they are unknown.
        per_photo_in_run: questions per view in predict and ablate, where the run's own model is multimodal.
    """

    photos: int
    questions: dict[str, int]
    per_cue: float
    cost: Cost | None
    money: float | None
    per_photo_in_run: int

    @property
    def total(self) -> int:
        return sum(self.questions.values())


def estimate(run: Run) -> Estimate:
    """Counts what `ask_run` would ask, without asking.

    Raises:
        ConfigError: no multimodal model is named, or more questions than `ask.max_questions`.
        DataError: the run is not finished, or there is nothing to compare.
    """
    config = run.config
    check_model(config.model.mllm)
    draws, samples = read_draws(run), run.read("samples")
    check_draws(draws)
    asked = questions_for(draws, samples, config)
    served = config.model.mllm.llm is not None
    if served:  # no server drops tokens
        asked = [one for one in asked if one.probe != DROPPED]
    counts: dict[str, int] = {}
    for one in asked:
        counts[one.probe] = counts.get(one.probe, 0) + len(one.questions)
    cost = _cost(asked, config) if served else None
    made = Estimate(
        photos=len({one.sample["sample_id"] for one in asked}),
        questions=counts,
        per_cue=sum(counts.values()) / draws.select(pl.struct("label", "cue_id").n_unique()).item(),
        cost=cost,
        money=None if cost is None else money(cost, config.model.mllm),
        per_photo_in_run=len(run_questions(config.model.mllm, sorted(samples["label"].unique()))),
    )
    most = config.ask.max_questions
    if most and made.total > most:
        raise ConfigError(
            f"this would ask {made.total} questions, more than ask.max_questions = {most}; lower ask.photos or "
            "ask.cues_per_class, or raise it"
        )
    return made


def ask_run(run: Run, progress: Progress = lambda *_: None) -> pl.DataFrame:
    """Asks what is not answered yet, and writes the tables `answers` and `perception` and the file `perception.json`.

    Args:
        run: finished, with a multimodal model in `model.mllm`; the run's own model may be another.
        progress: called as in `corridor.discover`.

    Returns:
        The table `perception`.
    """
    estimate(run)
    for stage in STAGES:
        make(run, stage, progress)
    found = run.read("perception")
    run.write_text(FILE, render_json(run.config, found))
    return found


def render_json(config: RunConfig, perception: pl.DataFrame) -> str:
    """Returns the table as strict JSON: a missing number is null."""
    mllm = config.model.mllm
    facts = {"name": config.name, "model": mllm.checkpoint or mllm.llm, "wordings": list(mllm.wordings)}
    rows = perception.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)).to_dicts()
    content = {"schema_version": SCHEMA_VERSION, "run": facts, "perception": rows}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _cost(asked: list[Asked], config: RunConfig) -> Cost:
    questions = [question.text for one in asked for question in one.questions]
    n, most = len(questions), config.model.mllm.answer_tokens
    tokens = sum(tokens_of(text) for text in questions) + n * IMAGE_TOKENS
    return Cost(asked=n, calls=n, tokens_in=tokens, tokens_out=n * most)
