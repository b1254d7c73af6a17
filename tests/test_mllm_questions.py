import numpy as np
import pytest

from discovery.backends.mllm_questions import (
    YES_NO,
    Answer,
    choice_questions,
    from_mass,
    from_text,
    from_tokens,
    presence_questions,
    read_answer,
)
from discovery.config import MllmConfig
from discovery.errors import BackendError


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("yes", 0),
        ("Yes.", 0),
        ("  **Yes**  ", 0),
        ('"YES!"', 0),
        ("Yes, there is.", 0),
        ("Yes, without doubt; there is no other dog.", 0),
        ("yes\nThe dog lies on the left.", 0),
        ("<think>Is it a dog? No, yes, maybe.</think>\nno", 1),
        ("No", 1),
        ("No, I see nothing of the kind.", 1),
        ("no – only a cat", 1),
    ],
)
def test_a_clear_answer_is_read(said, option):
    assert read_answer(said, YES_NO) == option


@pytest.mark.parametrize(
    "said",
    [
        "I know",
        "I do not know.",
        "know",
        "nothing",
        "Yesterday",
        "No doubt there is a dog",
        "No-one can say",
        "Yes and no",
        "yes/no",
        "No, wait, yes.",
        "Answer yes or no.",
        "I'm sorry, I can't help with that.",
        "Sí, hay un perro.",
        "はい",
        "Нет",
        "",
        "yes'm",
        "<think>yes",
    ],
)
def test_what_is_no_clear_answer_is_unclear(said):
    assert read_answer(said, YES_NO) is None
    assert from_text(said, YES_NO).probs is None


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("B", 1),
        ("(b)", None),
        ("B. dog", 1),
        ("(B) A dog", 1),
        ("A dog", None),
        ("a", None),
        ("A or B", None),
        ("A, B", None),
    ],
)
def test_a_letter_is_a_capital_that_stands_alone(said, option):
    assert read_answer(said, ("A", "B", "C")) == option


def test_token_variants_are_added_up_and_others_are_not():
    tokens = {"Yes": 0.3, " yes": 0.1, "YES": 0.1, "▁No": 0.1, "know": 0.2, "not": 0.1, "Yesterday": 0.1}
    answer = from_tokens("Yes", tokens, YES_NO, min_mass=0.1)
    np.testing.assert_allclose(answer.probs, [5 / 6, 1 / 6])
    assert answer.measured


def test_an_option_beyond_the_listed_tokens_has_at_most_the_smallest_of_them():
    np.testing.assert_allclose(from_tokens("yes", {"yes": 0.97}, YES_NO, min_mass=0.1).probs, [0.97, 0.03])
    listed = {"yes": 0.9, "Yes": 0.08, "I": 0.01}
    np.testing.assert_allclose(from_tokens("yes", listed, YES_NO, min_mass=0.1).probs[1], 0.01 / 0.99)


def test_little_probability_on_any_option_is_unclear():
    assert from_tokens("I", {"I": 0.9, "Yes": 0.04, "No": 0.01}, YES_NO, min_mass=0.1).probs is None
    assert from_mass("", np.zeros(2), 0.0).probs is None


def test_questions_come_in_every_wording_and_both_orders():
    asked = presence_questions("ice_axe", MllmConfig().wordings)
    assert len(asked) == 6
    assert len({question.text for question in asked}) == 6
    assert {question.options for question in asked} == {("yes", "no"), ("no", "yes")}
    assert all("an ice axe" in question.text for question in asked)
    assert asked[1].text.endswith("Answer no or yes.")


def test_an_answer_is_read_by_meaning_whatever_the_order():
    one, two = presence_questions("dog", ["{a_label}?"])
    for question in (one, two):
        assert from_text("yes", question.options).prob(question, "yes") == 1.0
    assert Answer("?", None, measured=False).prob(one, "yes") is None


def test_each_option_of_a_choice_stands_in_each_place_once():
    asked = choice_questions(["a", "b", "c", "d"], "Which?", 4)
    places = np.array([[question.meaning.index(name) for name in "abcd"] for question in asked])
    assert all(sorted(column) == [0, 1, 2, 3] for column in places.T)
    assert "A. b\nB. c" in asked[1].text


def test_more_classes_than_letters_are_refused():
    with pytest.raises(BackendError, match="ask = 'each'"):
        choice_questions([str(i) for i in range(27)], "Which?", 2)


def test_a_wording_without_the_class_is_refused():
    with pytest.raises(ValueError, match="must name the class"):
        MllmConfig(wordings=("Is it there?",))
