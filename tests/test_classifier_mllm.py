import numpy as np
import pytest
from tiny_checkpoints import save_clip
from tiny_llava import save_llava

from discovery.backends import classifier_mllm
from discovery.backends.classifier import load_classifier
from discovery.backends.classifier_mllm import MllmClassifier, choice_log_probs, load_mllm, yes_logit
from discovery.backends.mllm_questions import Query, choice_questions, from_text, presence_questions
from discovery.backends.roles import Head
from discovery.config import ComputeConfig, MllmConfig, ModelConfig
from discovery.errors import BackendError
from discovery.stats import logit

COMPUTE = ComputeConfig(device="cpu", batch_size=4)
CLASSES = ("cat", "dog", "owl")


def photos(*sizes) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(save_llava(tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="module")
def local(checkpoint):
    return load_mllm(MllmConfig(checkpoint=checkpoint, min_mass=0), COMPUTE)


def model(checkpoint: str, **settings):
    config = ModelConfig(kind="mllm", mllm=MllmConfig(checkpoint=checkpoint, min_mass=0, **settings))
    return load_classifier(config, COMPUTE, Head(CLASSES))


@pytest.mark.parametrize("ask", ["each", "choice"])
def test_it_is_a_classifier(checkpoint, ask):
    asked = model(checkpoint, ask=ask)
    views = [asked.view(photo) for photo in photos((40, 60), (33, 31), (1, 1), (3, 500))]
    probs = asked.predict(views)
    assert probs.shape == (4, 3)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    np.testing.assert_allclose(asked.predict(views[::-1]), probs[::-1], atol=1e-6)
    assert asked.predict([]).shape == (0, 3)


def test_the_whole_photo_is_the_view_and_large_ones_are_shrunk(checkpoint):
    asked = model(checkpoint, side_px=100)
    assert asked.view(np.zeros((50, 400, 3), np.uint8)).shape == (12, 100, 3)
    np.testing.assert_array_equal(asked.field(50, 400), [0, 0, 400, 50])


def test_answers_do_not_depend_on_the_batch(local):
    (photo,) = photos((48, 48))
    asked = [Query(photo, question) for question in presence_questions("cat", MllmConfig().wordings)]
    together = local.answer(asked)
    for query, answer in zip(asked, together, strict=True):
        np.testing.assert_allclose(local.answer([query])[0].probs, answer.probs, atol=1e-6)


def test_hidden_tokens_change_the_answer_and_hidden_nothing_does_not(local):
    (photo,) = photos((64, 64))
    (question, _) = presence_questions("cat", ["Is there {a_label} in this image?"])
    corner, nothing = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    corner[:32, :32] = True
    plain, without, same = local.answer([Query(photo, question, hidden) for hidden in (None, corner, nothing)])
    assert not np.allclose(plain.probs, without.probs)
    np.testing.assert_allclose(plain.probs, same.probs, atol=1e-7)


@pytest.mark.parametrize(
    ("size", "box", "cells"),
    [
        ((64, 64), (0, 32, 0, 32), [0, 1, 4, 5]),
        ((64, 128), (0, 64, 0, 32), []),  # the processor crops the middle: this part is never seen
        ((64, 128), (0, 64, 32, 64), [0, 1, 4, 5, 8, 9, 12, 13]),
        ((128, 128), (96, 128, 96, 128), [15]),
        ((48, 48), (16, 32, 16, 32), [5, 6, 9, 10]),  # 0.44 of each
        ((128, 128), (4, 12, 4, 12), [0]),  # a thing that fills no token
        ((128, 128), (0, 0, 0, 0), []),
    ],
)
def test_a_place_is_followed_through_the_processor_to_its_tokens(local, size, box, cells):
    hidden = np.zeros(size, bool)
    hidden[box[0] : box[1], box[2] : box[3]] = True
    np.testing.assert_array_equal(np.flatnonzero(local._cells(hidden, 16)), cells)


def test_tokens_that_cannot_be_traced_are_refused(local):
    with pytest.raises(BackendError, match=r"ask\.drop_tokens = false"):
        local._cells(np.ones((64, 64), bool), 15)


class Scripted:
    """Answers with the log-odds of yes that it is given per class, or with bare words."""

    drops_tokens = False

    def __init__(self, says):
        self.says, self.n_calls = says, 0

    def answer(self, queries):
        self.n_calls += len(queries)
        return [self.says(query) for query in queries]


def scripted(monkeypatch, says, **settings) -> MllmClassifier:
    monkeypatch.setattr(classifier_mllm, "load_mllm", lambda *_: Scripted(says))
    config = ModelConfig(kind="mllm", mllm=MllmConfig(checkpoint="none", **settings))
    return MllmClassifier(config, COMPUTE, Head(CLASSES))


def test_no_class_wins_by_its_place_when_all_are_answered_alike(monkeypatch):
    asked = scripted(monkeypatch, lambda query: from_text("no", query.question.options))
    probs = asked.predict(photos(*[(8, 8)] * 300))
    np.testing.assert_allclose(probs, 1 / 3, atol=1e-5)
    shares = np.bincount(probs.argmax(axis=1), minlength=3) / 300
    assert shares.min() > 0.25


def test_the_log_odds_of_a_class_move_by_what_its_own_question_moves(monkeypatch):
    from discovery.backends.mllm_questions import Answer

    def says(odds):
        def answer(query):
            label = next(name for name in CLASSES if name in query.question.text)
            yes = 1 / (1 + np.exp(-odds[label]))
            probs = np.array([yes, 1 - yes]) if query.question.options[0] == "yes" else np.array([1 - yes, yes])
            return Answer("", probs, measured=True)

        return answer

    before, after = (
        scripted(monkeypatch, says({"cat": cat, "dog": -1.0, "owl": -2.0})).predict(photos((8, 8)))[0, 0]
        for cat in (2.0, 0.5)
    )
    assert logit(before) - logit(after) == pytest.approx(1.5, abs=1e-5)


def test_bare_answers_are_never_certain_and_unclear_ones_say_nothing():
    asked = presence_questions("cat", MllmConfig().wordings)
    words = ["yes", "yes", "no", "I know", "Sí", "yes"]
    answers = [(question, from_text(word, question.options)) for question, word in zip(asked, words, strict=True)]
    assert yes_logit(answers) == pytest.approx(np.log(3.5 / 1.5))
    assert yes_logit([(asked[0], from_text("perhaps", asked[0].options))]) == 0.0
    choice = choice_questions(CLASSES, "Which?", 3)
    chosen = [(question, from_text("A", question.options)) for question in choice]
    np.testing.assert_allclose(choice_log_probs(chosen, CLASSES), np.log(1.5))  # always the first: no preference


def test_what_is_no_multimodal_model_is_one_clear_line(tmp_path):
    for folder, said in ((tmp_path / "none", "no folder"), (save_clip(tmp_path / "clip"), "cannot load")):
        with pytest.raises(BackendError, match=said) as caught:
            load_mllm(MllmConfig(checkpoint=str(folder)), COMPUTE)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_that_cannot_be_asked_is_refused(checkpoint, tmp_path):
    import shutil

    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(BackendError, match="no chat template"):
        load_mllm(MllmConfig(checkpoint=str(bare)), COMPUTE)


def test_one_source_must_be_named():
    for mllm in (MllmConfig(), MllmConfig(checkpoint="a", llm="b")):
        with pytest.raises(ValueError, match=r"either model\.mllm\.checkpoint"):
            ModelConfig(kind="mllm", mllm=mllm)
