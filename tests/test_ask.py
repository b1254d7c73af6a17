"""`discovery ask`: what is drawn, asked, read and compared, by scripted models, a real server and a tiny LLaVA."""

import json

import numpy as np
import polars as pl
import pytest
from chat_server import chat_server, photo_of, text_of
from PIL import Image
from tiny_llava import save_llava
from typer.testing import CliRunner

from discovery import ask
from discovery.asking import ask_run, estimate
from discovery.backends.mllm_questions import Answer, from_text
from discovery.config import AskConfig, AssociateConfig, MllmConfig, make_config
from discovery.draws import draw_photos
from discovery.errors import ConfigError, DataError
from discovery.perceive import perceive
from discovery.run import Run, frame_of
from flows.cli import app

MAGENTA, SIZE = (218, 34, 190), 48
CLASSES = {"cat": (90, 120, 60), "dog": (60, 90, 150)}


def draw(label: str, *, sticker: bool, rng: np.random.Generator) -> np.ndarray:
    """Draws grey noise, the class as a coloured square in the middle, and perhaps a magenta sticker in the corner."""
    photo = rng.normal(128, 10, (SIZE, SIZE, 3))
    photo[16:32, 16:32] = CLASSES[label]
    if sticker:
        photo[2:12, 2:12] = MAGENTA
    return np.clip(photo, 0, 255).astype(np.uint8)


def has_sticker(photo: np.ndarray) -> bool:
    return bool((np.abs(photo[4:10, 4:10].astype(int) - MAGENTA).max(axis=2) < 40).mean() > 0.5)


def shows(photo: np.ndarray, label: str) -> bool:
    return bool((np.abs(photo[18:30, 18:30].astype(int) - CLASSES[label]).max(axis=2) < 25).mean() > 0.5)


@pytest.fixture
def finished(tmp_path):
    """Returns `finished(n, **settings)`, a run whose corridor is over: n photos a class, every other with a sticker."""

    def make(n=40, *, settings=None, model=None):
        rng = np.random.default_rng(0)
        root = tmp_path / "photos"
        root.mkdir(exist_ok=True)
        samples, shown = [], []
        for label in CLASSES:
            for i in range(n):
                name = f"{label}-{i:03d}"
                Image.fromarray(draw(label, sticker=i % 2 == 0, rng=rng)).save(root / f"{name}.png")
                box = {"object_x0": 16.0, "object_y0": 16.0, "object_x1": 32.0, "object_y1": 32.0}
                sizes = {"width_px": SIZE, "height_px": SIZE, "audit": True, "split": "test"}
                samples.append({"sample_id": name, "uri": f"{name}.png", "label": label} | sizes | box)
                shown += [{"cue_id": "sticker", "sample_id": name}] if i % 2 == 0 else []
                shown += [{"cue_id": "nothing", "sample_id": name}] if i % 4 < 2 else []
        cues = [
            {"label": label, "cue_id": cue_id, "phrase": f"a {cue_id}", "rank": rank, "object_overlap": 0.0}
            for label in CLASSES
            for rank, cue_id in enumerate(("sticker", "nothing"), 1)
        ]
        values = {
            "dataset": {"root": str(root)},
            "ask": settings or {},
            "model": {"mllm": model or {"checkpoint": "x"}},
        }
        run = Run.create(tmp_path / "run", make_config(values))
        for table, rows in (("samples", samples), ("cues", cues), ("presences", shown)):
            run.write(table, frame_of(table, rows), shard=0, fingerprint="made")
        return run

    return make


class Scripted:
    """A multimodal model whose answers a test writes: query → Answer."""

    drops_tokens = True

    def __init__(self, says):
        self.says, self.n_calls = says, 0

    def answer(self, queries):
        self.n_calls += len(queries)
        return [self.says(query) for query in queries]


def sees_and_makes_up(query) -> Answer:
    """Sees dogs, and one more wherever there is a sticker; a hidden object is not seen."""
    photo, question = query.image, query.question
    there = shows(photo, "dog") and query.hidden is None
    dog = 0.9 if there else 0.7 if has_sticker(photo) else 0.1
    cat = 0.9 if shows(photo, "cat") and query.hidden is None else 0.1
    if "yes" in question.meaning:
        yes = dog if "dog" in question.text else cat
        return Answer("", np.array([yes, 1 - yes] if question.options[0] == "yes" else [1 - yes, yes]), measured=True)
    probs = np.array([{"dog": dog, "cat": cat}[name] for name in question.meaning])
    return Answer("", probs / probs.sum(), measured=True)


@pytest.fixture
def scripted(monkeypatch):
    def use(says):
        model = Scripted(says)
        monkeypatch.setattr(ask, "load_mllm", lambda *_: model)
        return model

    return use


def row(found: pl.DataFrame, label: str, cue: str, probe: str, wording: str = "all") -> dict:
    wanted = (pl.col("label") == label, pl.col("cue_id") == cue, pl.col("probe") == probe, pl.col("wording") == wording)
    return found.filter(*wanted).row(0, named=True)


# --- what is drawn ---


def test_a_photo_is_on_one_side_alone_and_each_class_gives_as_many_to_either(finished):
    run = finished(13)
    samples, presences = run.read("samples"), run.read("presences")
    draws = draw_photos(run.read("cues"), presences, samples, AskConfig(photos=50), core_overlap=0.5)
    key = ["label", "cue_id", "probe"]
    assert not draws.select(*key, "sample_id").is_duplicated().any()  # even where there are fewer than 2 × photos
    sides = draws.group_by(*key, "stratum").agg(pl.col("with_cue").sum(), n=pl.len())
    assert (sides["with_cue"] * 2 == sides["n"]).all()
    shown = set(presences.filter(pl.col("cue_id") == "sticker")["sample_id"])
    stickers = draws.filter(pl.col("cue_id") == "sticker")
    assert [name in shown for name in stickers["sample_id"]] == stickers["with_cue"].to_list()


def test_the_number_of_photos_is_limited_and_shared_by_the_classes(finished):
    run = finished(20)
    draws = draw_photos(
        run.read("cues"), run.read("presences"), run.read("samples"), AskConfig(photos=4), core_overlap=1
    )
    assert (draws.group_by("label", "cue_id", "probe").len()["len"] == 8).all()


def test_a_cue_inside_the_object_is_not_asked_about_without_it(finished):
    run = finished(8)
    cues = run.read("cues").with_columns(object_overlap=pl.lit(0.9))
    draws = draw_photos(cues, run.read("presences"), run.read("samples"), AskConfig(), core_overlap=0.5)
    assert set(draws["probe"]) == {"own", "other", "choice"}


# --- what is asked ---


def test_questions_are_neutral_and_shared_by_the_cues(finished, scripted):
    run, asked_texts = finished(8), []

    def note(query):
        asked_texts.append(query.question.text)
        return sees_and_makes_up(query)

    model = scripted(note)
    counted = estimate(run).total
    ask_run(run)
    assert not [text for text in asked_texts if "sticker" in text or "nothing" in text]
    assert model.n_calls == counted
    # Whole 16 photos × 2 classes, without the object 8 × 2 in two ways, in 3 wordings × 2 orders; and 8 × 2 choices.
    assert counted == 6 * (16 * 2 + 8 * 2 + 8 * 2) + 2 * 8 * 2


def test_a_planted_hallucination_cue_is_found_and_another_is_not(finished, scripted):
    scripted(sees_and_makes_up)
    found = ask_run(finished())
    for probe in ("other", "masked"):
        planted = row(found, "dog", "sticker", probe)
        assert planted["rate_with"] - planted["rate_without"] == pytest.approx(1.0)
        assert planted["gap_low"] > 0.5
        assert planted["gap_q"] < 0.05
        assert planted["logit_gap"] == pytest.approx(np.log(0.7 / 0.3) - np.log(0.1 / 0.9), abs=1e-3)
    assert row(found, "dog", "sticker", "dropped")["gap_q"] < 0.05
    choice = row(found, "dog", "sticker", "choice")
    assert choice["logit_gap"] == pytest.approx(np.log(0.1 / 0.7), abs=1e-3)  # likelihood advantage: drawn to dog
    assert choice["logit_q"] < 0.05
    assert row(found, "dog", "sticker", "own")["gap"] == 0.0
    for label, cue in (("dog", "nothing"), ("cat", "sticker"), ("cat", "nothing")):
        for probe in ("own", "other", "masked", "dropped"):
            assert row(found, label, cue, probe)["gap_q"] > 0.05


def test_each_wording_has_its_row(finished, scripted):
    first = MllmConfig().wordings[0]

    def only_in_one_wording(query):
        yes = has_sticker(query.image) and query.question.wording == 0
        return from_text("yes" if yes else "no", query.question.options)

    scripted(only_in_one_wording)
    found = ask_run(finished(settings={"choices": False, "drop_tokens": False}))
    assert row(found, "dog", "sticker", "other", first)["gap"] == 1.0
    assert row(found, "dog", "sticker", "other", MllmConfig().wordings[1])["gap"] == 0.0
    assert row(found, "dog", "sticker", "other")["gap"] == 0.0  # two of three wordings say no
    assert row(found, "dog", "sticker", "other")["logit_p"] < 0.05


# --- how answers are read ---


def test_one_that_always_takes_the_first_option_is_unclear_and_not_consistent(finished, scripted):
    scripted(lambda query: from_text(query.question.options[0], query.question.options))
    whole = row(ask_run(finished(8)), "dog", "sticker", "other")
    assert (whole["n_with"], whole["n_without"], whole["n_unclear_with"], whole["n_answers_unclear"]) == (0, 0, 4, 0)
    assert whole["consistency"] == pytest.approx(0.5)
    assert whole["gap"] is None
    assert whole["gap_p"] == 1.0


def test_i_know_is_not_no(finished, scripted):
    scripted(lambda query: from_text("I know", query.question.options))
    found = ask_run(finished(8))
    whole = row(found, "dog", "sticker", "own")
    assert whole["n_answers"] == whole["n_answers_unclear"] == 8 * 6
    assert whole["rate_with"] is None
    assert set(found["consistency"].to_list()) == {None}


def test_refusals_of_one_side_are_counted_there(finished, scripted):
    scripted(lambda q: from_text("I cannot say" if has_sticker(q.image) else "no", q.question.options))
    whole = row(ask_run(finished(8)), "dog", "sticker", "other")
    assert (whole["n_unclear_with"], whole["n_unclear_without"]) == (4, 0)


# --- what chance does ---


def answers_of(rng: np.random.Generator, classes: dict[str, float], n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns draws with random sides, and answers that depend on the class of a photo and on nothing else."""
    draws, answers = [], []
    for label, rate in classes.items():
        for i in range(n):
            name = f"{label}-{i}"
            known = {"sample_id": name, "stratum": label, "with_cue": bool(rng.random() < 0.5)}
            draws.append({"label": "dog", "cue_id": "cue", "phrase": "cue", "probe": "other"} | known)
            yes = float(np.clip(rng.normal(rate, 0.2), 0.01, 0.99))
            asked = {"sample_id": name, "question_id": "whole:dog", "probe": "whole", "label": "dog", "text": ""}
            numbers = {"prob": yes, "prob_against": 1 - yes, "measured": True, "chosen": "yes" if yes > 0.5 else "no"}
            answers.append(asked | {"wording": "w", "order": 0} | numbers)
    return pl.DataFrame(draws), frame_of("answers", answers)


def test_of_runs_with_nothing_to_find_about_one_in_twenty_has_a_small_p():
    rng = np.random.default_rng(0)
    config = AssociateConfig(permutations=199)
    p = []
    for seed in range(200):
        rows = perceive(*answers_of(rng, {"cat": 0.2, "owl": 0.6}, 30), config, seed)
        p.append([rows[0]["gap_p"], rows[0]["logit_p"]])
    shares = (np.array(p) <= 0.05).mean(axis=0)
    assert shares.max() <= 0.09  # 0.05 ± 2.6 standard errors
    assert shares[1] >= 0.015


def test_a_plain_difference_survives_a_correction_for_hundreds_of_tests():
    draws, answers = answers_of(np.random.default_rng(0), {"cat": 0.2, "owl": 0.2}, 40)
    shown = dict(draws.select("sample_id", "with_cue").iter_rows())
    reacts = pl.Series([0.9 if shown[name] else 0.1 for name in answers["sample_id"]])
    (whole, _) = perceive(draws, answers.with_columns(prob=reacts, prob_against=1 - reacts), AssociateConfig(), 0)
    assert max(whole["gap_p"], whole["logit_p"]) * 500 < 0.05


def test_what_differs_between_classes_is_no_effect_of_the_cue():
    rng = np.random.default_rng(0)
    draws, answers = answers_of(rng, {"cat": 0.1, "wolf": 0.9}, 60)
    side = [rng.random() < (0.8 if label == "wolf" else 0.2) for label in draws["stratum"]]
    (whole, _) = perceive(draws.with_columns(with_cue=pl.Series(side)), answers, AssociateConfig(), 0)
    assert whole["gap"] > 0.3
    assert whole["gap_p"] > 0.05


# --- the command ---


def test_a_real_server_is_asked_once_and_the_planted_cue_is_found(finished, tmp_path):
    def says(body):
        photo, text = photo_of(body), text_of(body)
        dog = has_sticker(photo) or shows(photo, "dog")
        if "Answer with the letter" in text:
            letter = {line[3:]: line[0] for line in text.splitlines()[1:-1]}
            return f"{letter['dog' if dog else 'cat']}."
        return "Yes, there is." if (dog if "dog" in text else shows(photo, "cat")) else "No."

    with chat_server() as server:
        server.otherwise = says
        model = server.settings(tmp_path)
        run = finished(12, settings={"photos": 6, "orders": 2}, model=model)
        ran = CliRunner().invoke(app, ["ask", str(run.path)])
        assert ran.exit_code == 0, ran.output
        calls = len(server.asked)
        assert calls == estimate(run).total
        again = CliRunner().invoke(app, ["ask", str(run.path), "--set", "associate.permutations=99"])
        assert (again.exit_code, len(server.asked)) == (0, calls)
    assert ran.output.splitlines()[-1] == str(run.path / "perception.json")
    kept = json.loads((run.path / "perception.json").read_text())
    assert kept["run"]["model"] == "tiny"
    planted = row(run.read("perception"), "dog", "sticker", "other")
    assert (planted["rate_with"], planted["rate_without"]) == (1.0, 0.0)
    assert "dropped" not in set(run.read("perception")["probe"])


def test_a_dry_run_asks_nothing_and_says_what_it_would_cost(finished):
    prices = {"price_in": 1.0, "price_out": 2.0, "base_url": "http://127.0.0.1:9/v1"}
    run = finished(8, model={"llm": "tiny", **prices})
    ran = CliRunner().invoke(app, ["ask", str(run.path), "--dry-run"])
    assert ran.exit_code == 0, ran.output
    made = estimate(run)
    assert made.cost.calls == made.total == 6 * (16 * 2 + 8 * 2) + 2 * 8 * 2
    assert f"{made.total}" in ran.output
    assert f"{made.money:.2f}" in ran.output
    assert not run.parts("answers")


def test_a_tiny_llava_is_asked_in_all_probes(finished, tmp_path):
    folder = save_llava(tmp_path / "llava")
    run = finished(4, settings={"photos": 2}, model={"checkpoint": str(folder), "min_mass": 0.0})
    found = ask_run(run)
    assert set(found["probe"]) == {"own", "other", "masked", "dropped", "choice"}
    answers = run.read("answers")
    assert answers["measured"].all()
    whole = answers.filter((pl.col("question_id") == "whole:dog") & (pl.col("sample_id") == "dog-000"))
    dropped = answers.filter((pl.col("question_id") == "dropped:dog") & (pl.col("sample_id") == "dog-000"))
    assert np.abs(whole["prob"].to_numpy() - dropped["prob"].to_numpy()).max() > 1e-6


def test_too_many_questions_are_refused_before_the_first(finished, scripted):
    model = scripted(sees_and_makes_up)
    with pytest.raises(ConfigError, match=r"more than ask\.max_questions = 10"):
        ask_run(finished(8, settings={"max_questions": 10}))
    assert model.n_calls == 0


def test_without_a_model_or_without_cues_it_is_one_line(finished):
    run = finished(4, model={"llm": None})
    ran = CliRunner().invoke(app, ["ask", str(run.path)])
    assert (ran.exit_code, "model.mllm.checkpoint=FOLDER" in ran.output) == (2, True)
    run.write("presences", frame_of("presences", []), shard=0, fingerprint="none")
    with pytest.raises(DataError, match="nothing to compare"):
        ask_run(Run(run.path, make_config({"dataset": {"root": "x"}, "model": {"mllm": {"checkpoint": "x"}}})))
