import numpy as np
import polars as pl
import pytest
from scipy import sparse

from discovery.associate import Photos, associate, judged_parts, names_of
from discovery.backends.detector import Phrase
from discovery.config import AssociateConfig

CONFIG = AssociateConfig()


def photos(
    label: list[str], predicted: list[str], audit: list[bool] | None = None, split: list | None = None
) -> Photos:
    n = len(label)
    return Photos(
        label=np.array(label),
        tied=np.ones(n, bool),
        audit=np.array(audit or [True] * n),
        predicted=np.array(predicted),
        split=np.array(split or ["all"] * n),
        pixels=np.full(n, 9),
    )


def measured(shown: np.ndarray, known: Photos, config: AssociateConfig = CONFIG) -> list[dict]:
    """Associates cues with the class "cow"; rows of `shown` are cues, values are scores."""
    matrix = sparse.csr_matrix(np.atleast_2d(shown).astype(np.float32))
    return associate(matrix, known, "cow", config, np.random.default_rng(0))


def test_gap_is_signed_with_minus_without():
    shown = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    (found,) = measured(shown, photos(["cow"] * 8, ["cow"] * 3 + ["cat"] + ["cow"] + ["cat"] * 3))
    assert found["gap"] == pytest.approx(0.75 - 0.25)
    assert (found["accuracy_with"], found["accuracy_without"]) == (0.75, 0.25)
    assert found["gap_low"] < 0.5 < found["gap_high"]


def test_hallucination_is_measured_on_other_classes():
    shown = np.array([0, 1, 1, 0, 0])
    known = photos(["cow", "cat", "cat", "cat", "cat"], ["cow", "cow", "cow", "cat", "cow"])
    (found,) = measured(shown, known)
    assert found["hallucination_gap"] == pytest.approx(1.0 - 0.5)


def test_bias_compares_the_class_with_the_rest():
    shown = np.array([1] * 9 + [0] + [1] + [0] * 9)
    (found,) = measured(shown, photos(["cow"] * 10 + ["cat"] * 10, ["cow"] * 20))
    assert (found["prevalence"], found["prevalence_rest"]) == (0.9, 0.1)
    assert found["cramers_v"] == pytest.approx(0.8)
    assert found["bias_p"] < 0.01


def test_photos_without_a_prediction_have_no_say_in_gaps_but_do_in_bias():
    shown = np.array([1, 0, 1, 0])
    known = photos(["cow"] * 4, ["cow", "", "cow", ""], [True, False, True, False])
    (found,) = measured(shown, known)
    assert (found["n_audit_with"], found["n_audit_without"]) == (2, 0)
    assert np.isnan(found["gap"])
    assert found["gap_p"] == 1
    assert (found["n_with"], found["n_without"]) == (2, 2)


def test_a_class_without_audited_photos_or_cues_is_not_an_error():
    known = photos(["cow", "cow", "cat"], ["", "", "cat"], [False, False, True])
    (found,) = measured(np.array([1, 0, 1]), known)
    assert (found["n_audit_with"], found["gap_p"], found["gap_p_maxt"]) == (0, 1, None)
    assert measured(np.zeros((0, 3)), known) == []


def test_swapping_presence_turns_every_sign():
    rng = np.random.default_rng(0)
    label = rng.choice(["cow", "cat"], 200)
    shown = rng.random(200) < np.where(label == "cow", 0.7, 0.3)
    known = photos(list(label), list(rng.choice(["cow", "cat"], 200)))
    one, other = measured(np.stack([shown, ~shown]), known)
    for name in ("gap", "bias_z", "hallucination_gap"):
        assert one[name] == pytest.approx(-other[name])
    assert one["bias_p"] == pytest.approx(other["bias_p"])
    assert one["gap_p_maxt"] == other["gap_p_maxt"]


def simpson(n: int = 400) -> tuple[np.ndarray, Photos]:
    """A cue that is common in the split where the model is right, and beside it does nothing."""
    rng = np.random.default_rng(1)
    easy = np.arange(n) < n // 2
    shown = rng.random(n) < np.where(easy, 0.8, 0.2)
    right = rng.random(n) < np.where(easy, 0.99, 0.5)
    split = ["train" if here else "test" for here in easy]
    return shown, photos(["cow"] * n, ["cow" if hit else "cat" for hit in right], split=split)


def test_a_gap_that_the_split_explains_is_seen_by_fisher_alone():
    shown, known = simpson()
    (found,) = measured(shown, known)
    assert found["gap"] > 0.15
    assert found["gap_p"] < 1e-3
    assert found["gap_p_maxt"] > 0.05
    assert found["gap_adjusted_low"] < 0 < found["gap_adjusted_high"]
    assert abs(found["gap_adjusted"]) < 0.1


def test_few_photos_with_a_cue_leave_the_careful_columns_empty():
    rng = np.random.default_rng(2)
    known = photos(["cow"] * 60, list(rng.choice(["cow", "cat"], 60)))
    few, enough = measured(np.stack([np.arange(60) < 9, np.arange(60) < 10]), known)
    for name in ("gap_p_maxt", "gap_adjusted", "gap_adjusted_p"):
        assert few[name] is None
        assert enough[name] is not None
    assert few["gap_p"] < 1 or few["gap"] == 0


def test_trying_more_cues_makes_the_same_gap_less_surprising():
    rng = np.random.default_rng(3)
    right = np.arange(120) < 80
    shown = rng.random(120) < np.where(right, 0.55, 0.28)
    known = photos(["cow"] * 120, ["cow" if hit else "cat" for hit in right])
    alone = measured(shown, known)[0]["gap_p_maxt"]
    among = measured(np.vstack([shown, rng.random((60, 120)) < 0.4]), known)[0]["gap_p_maxt"]
    assert alone < 0.02
    assert among > 2 * alone


def test_k_spuriosity_compares_the_highest_scores_with_the_lowest_when_it_is_on():
    score = np.array([5, 4, 3, 0, 0, 0])
    known = photos(["cow"] * 6, ["cow", "cow", "cat", "cat", "cat", "cow"])
    assert measured(score, known)[0]["k_gap"] is None
    (found,) = measured(score, known, AssociateConfig(k_spuriosity=2))
    assert found["k_gap"] == pytest.approx(1 - 1 / 3)


@pytest.mark.parametrize(
    ("judged", "core"),
    [
        ({"wheel": True}, True),
        ({"wheel": True, "tyre": True}, True),
        ({"wheel": True, "tyre": False}, False),
        ({"wheel": True, "tyre": None}, True),
        ({"wheel": None}, False),
        ({"road": True}, False),
    ],
)
def test_a_language_model_makes_a_cue_core_when_it_takes_all_it_judged_of_it_for_parts(judged, core):
    cues = pl.DataFrame({"cue_id": ["c1", "c2"], "phrases": [["wheel", "tyre", "rim"], ["sky"]]})
    rows = [("car", phrase, "tiny", mark) for phrase, mark in judged.items()] + [("cat", "wheel", "tiny", False)]
    attributes = pl.DataFrame(rows, schema=["label", "phrase", "model", "is_part"], orient="row")
    attributes = attributes.with_columns(pl.col("is_part").cast(pl.Boolean))
    found = judged_parts(cues, attributes)
    assert found == ({("car", "c1"): "so the language model tiny judges"} if core else {})


def test_a_cue_goes_by_those_of_its_synonyms_that_were_proposed_for_the_class_as_the_same_kind():
    cues = [
        ("s", "snowmobile", "object", ["motor scooter", "scooter lane", "snowmobile"]),
        ("r", "road", "background", ["road"]),
    ]
    proposed = [("motor scooter", "object"), ("scooter lane", "background")]
    named = names_of(
        pl.DataFrame(cues, schema=["cue_id", "phrase", "kind", "phrases"], orient="row"),
        pl.DataFrame(proposed, schema=["phrase", "kind"], orient="row"),
    )
    assert named == {
        Phrase("snowmobile", "object"): ["s"],
        Phrase("motor scooter", "object"): ["s"],
        Phrase("road", "background"): ["r"],
    }
