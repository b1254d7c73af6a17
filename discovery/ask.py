"""Draws × multimodal LLM → `answers`: yes/no questions and choices about each photo, in all wordings and orders."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier_mllm import Mllm, load_mllm, shrink
from discovery.backends.mllm_questions import Answer, Query, Question, choice_questions, presence_questions
from discovery.config import MllmConfig, RunConfig
from discovery.draws import CHOICE, DROPPED, MASKED, OTHER, OWN, WHOLE, question_id, read_draws
from discovery.errors import ConfigError
from discovery.fills import fill_blur
from discovery.images import map_ahead, read_image
from discovery.regions import draw_mask
from discovery.run import Run, Stage, frame_of
from discovery.schema import OBJECT_BOX

TEXT_CHARS = 200
"""Characters of an answer that are kept in the table."""
PHOTOS_AT_ONCE = 8


@dataclass(frozen=True)
class Asked:
    """What is asked about one photo under one probe.

    Attributes:
        question_id: the probe and the class in question; questions of one id are compared between photos.
        probe: see `draws.PROBES`.
        label: the class in question.
        sample: the photo's row of `samples`.
        questions: in all wordings and orders.
    """

    question_id: str
    probe: str
    label: str
    sample: dict
    questions: tuple[Question, ...]


def questions_for(draws: pl.DataFrame, samples: pl.DataFrame, config: RunConfig) -> list[Asked]:
    """Returns what is asked, photo by photo; cues that share a photo, a class and a probe share its questions."""
    classes = sorted(samples["label"].unique())
    rows = {row["sample_id"]: row for row in samples.iter_rows(named=True)}
    wanted = draws.with_columns(probe=pl.col("probe").replace({OWN: WHOLE, OTHER: WHOLE}))
    wanted = wanted.select("sample_id", "probe", "label").unique().sort("sample_id", "probe", "label")
    asked = []
    for name, probe, label in wanted.iter_rows():
        questions = _questions(probe, label, rows[name]["label"], classes, config)
        asked.append(Asked(question_id(probe, label), probe, label, rows[name], questions))
    return asked


def check_model(config: MllmConfig) -> None:
    """Raises ConfigError when no multimodal model, or two, are named."""
    if (config.checkpoint is None) == (config.llm is None):
        raise ConfigError(
            "discovery ask needs one multimodal model: --set model.mllm.checkpoint=FOLDER (local), or "
            "--set model.mllm.llm=NAME with model.mllm.base_url (a server)"
        )


def _questions(probe: str, label: str, own: str, classes: Sequence[str], config: RunConfig) -> tuple[Question, ...]:
    mllm = config.model.mllm
    if probe != CHOICE:
        return tuple(presence_questions(label, mllm.wordings))
    others = [name for name in classes if name not in (own, label)]
    named = (own, label, *others[: config.ask.options - 2])
    return tuple(choice_questions(named, mllm.choice, config.ask.orders))


def _work(run: Run, shard: int | None) -> pl.DataFrame:
    config = run.config
    names = run.read("samples", shard=shard, columns=["sample_id"])["sample_id"]
    mine = read_draws(run).filter(pl.col("sample_id").is_in(names.implode()))
    asked = questions_for(mine, run.read("samples"), config)
    if not asked:
        return frame_of("answers", [])
    mllm = load_mllm(config.model.mllm, config.compute)
    if not mllm.drops_tokens:
        asked = [one for one in asked if one.probe != DROPPED]
    return frame_of("answers", [row for batch in _by_photos(asked) for row in _answers(batch, mllm, config)])


def _by_photos(asked: list[Asked]) -> Iterator[list[Asked]]:
    """Yields what is asked, a few photos at a time."""
    names = list(dict.fromkeys(one.sample["sample_id"] for one in asked))
    for start in range(0, len(names), PHOTOS_AT_ONCE):
        few = set(names[start : start + PHOTOS_AT_ONCE])
        yield [one for one in asked if one.sample["sample_id"] in few]


def _answers(asked: list[Asked], mllm: Mllm, config: RunConfig) -> Iterator[dict]:
    samples = {one.sample["sample_id"]: one.sample for one in asked}
    paths = [Path(config.dataset.root) / sample["uri"] for sample in samples.values()]
    side = config.model.mllm.side_px
    views = map_ahead(
        lambda path: shrink(read_image(path, max_pixels=config.dataset.max_pixels), side), paths, ahead=PHOTOS_AT_ONCE
    )
    shown = dict(zip(samples, views, strict=True))
    queries = [query for one in asked for query in _queries(one, shown[one.sample["sample_id"]])]
    answers = iter(mllm.answer(queries))
    for one in asked:
        for question in one.questions:
            yield _row(one, question, next(answers), config.model.mllm)


def _queries(one: Asked, view: np.ndarray) -> list[Query]:
    if one.probe not in (MASKED, DROPPED):
        return [Query(view, question) for question in one.questions]
    box = np.array([one.sample[name] for name in OBJECT_BOX], np.float32)
    size = (one.sample["height_px"], one.sample["width_px"])
    mask = draw_mask(box, None, size, view.shape[:2])
    if one.probe == DROPPED:
        return [Query(view, question, mask) for question in one.questions]
    masked = fill_blur(view, mask) if not mask.all() else np.full_like(view, 128)
    return [Query(masked, question) for question in one.questions]


def _row(one: Asked, question: Question, answer: Answer, config: MllmConfig) -> dict:
    target, against = (one.sample["label"], one.label) if one.probe == CHOICE else ("yes", "no")
    chosen = None if answer.probs is None else question.meaning[int(answer.probs.argmax())]
    tied = answer.probs is not None and (answer.probs == answer.probs.max()).sum() > 1
    return {
        "sample_id": one.sample["sample_id"],
        "question_id": one.question_id,
        "wording": config.choice if one.probe == CHOICE else config.wordings[question.wording],
        "order": question.order,
        "probe": one.probe,
        "label": one.label,
        "chosen": None if tied else chosen,
        "prob": answer.prob(question, target),
        "prob_against": answer.prob(question, against),
        "measured": answer.measured,
        "text": answer.text[:TEXT_CHARS],
    }


STAGE = Stage(
    name="ask",
    table="answers",
    inputs=("cues", "presences", "samples"),
    config=lambda config: (config.ask, config.model.mllm, config.dataset.root),
    work=_work,
    sharded=True,
)
