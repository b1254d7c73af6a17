import numpy as np
import pytest

from discovery.associate import Photos, associate
from discovery.config import AssociateConfig

CONFIG = AssociateConfig()


def photos(label: list[str], predicted: list[str], audit: list[bool] | None = None) -> Photos:
    n = len(label)
    return Photos(np.array(label), np.ones(n, bool), np.array(audit or [True] * n), np.array(predicted))


def test_gap_is_signed_with_minus_without():
    shown = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    found = associate(shown, photos(["cow"] * 8, ["cow"] * 3 + ["cat"] + ["cow"] + ["cat"] * 3), "cow", CONFIG)
    assert found["gap"] == pytest.approx(0.75 - 0.25)
    assert (found["accuracy_with"], found["accuracy_without"]) == (0.75, 0.25)
    assert found["gap_low"] < 0.5 < found["gap_high"]


def test_hallucination_is_measured_on_other_classes():
    shown = np.array([0, 1, 1, 0, 0], bool)
    known = photos(["cow", "cat", "cat", "cat", "cat"], ["cow", "cow", "cow", "cat", "cow"])
    found = associate(shown, known, "cow", CONFIG)
    assert found["hallucination_gap"] == pytest.approx(1.0 - 0.5)


def test_bias_compares_the_class_with_the_rest():
    shown = np.array([1] * 9 + [0] + [1] + [0] * 9, bool)
    found = associate(shown, photos(["cow"] * 10 + ["cat"] * 10, ["cow"] * 20), "cow", CONFIG)
    assert (found["prevalence"], found["prevalence_rest"]) == (0.9, 0.1)
    assert found["cramers_v"] == pytest.approx(0.8)
    assert found["bias_p"] < 0.01


def test_photos_without_a_prediction_have_no_say_in_gaps_but_do_in_bias():
    shown = np.array([1, 0, 1, 0], bool)
    known = photos(["cow"] * 4, ["cow", "", "cow", ""], [True, False, True, False])
    found = associate(shown, known, "cow", CONFIG)
    assert (found["n_audit_with"], found["n_audit_without"]) == (2, 0)
    assert np.isnan(found["gap"])
    assert found["gap_p"] == 1
    assert (found["n_with"], found["n_without"]) == (2, 2)


def test_swapping_presence_turns_every_sign():
    rng = np.random.default_rng(0)
    label = rng.choice(["cow", "cat"], 200)
    shown = rng.random(200) < np.where(label == "cow", 0.7, 0.3)
    known = photos(list(label), list(rng.choice(["cow", "cat"], 200)))
    one, other = (associate(s, known, "cow", CONFIG) for s in (shown, ~shown))
    for name in ("gap", "bias_z", "hallucination_gap"):
        assert one[name] == pytest.approx(-other[name])
    assert one["bias_p"] == pytest.approx(other["bias_p"])
