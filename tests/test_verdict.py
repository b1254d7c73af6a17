"""One row of evidence → its verdict and its reason: a table of cases."""

import pytest

from discovery.config import RankConfig
from discovery.schema import VERDICTS
from discovery.verdict import judge

NAN = float("nan")
USED = {
    **{"effect": 0.3, "effect_low": 0.2, "effect_high": 0.4, "logit_effect": 2.0, "fills_agree": True},
    **{"removal_effect": 0.3, "removal_low": 0.2, "removal_high": 0.4, "removal_q": 0.001, "n_ablated": 30},
    **{"paste_effect": 0.1, "paste_low": 0.05, "paste_high": 0.15, "paste_q": 0.01, "n_pasted": 30},
    **{"q_used": 0.001, "object_overlap": NAN, "object_source": None, "kind": "object"},
}
TIED = {
    **{"tie": "bias", "tie_sign": 1.0, "screened": False, "q_tied": 0.001, "q_value": 0.001, "core_reason": None},
    **{"n_with": 90, "n_without": 10, "prevalence": 0.9, "prevalence_rest": 0.1, "n_audit_with": 40},
    **{"gap": 0.3, "detectable_gap": 0.2},
}
UNTIED = {"screened": True, "q_tied": 0.6, "q_value": 0.6}
NOTHING = {
    **{"effect": 0.002, "effect_low": -0.01, "effect_high": 0.015, "logit_effect": 0.02, "q_used": 0.7},
    **{"removal_effect": 0.002, "removal_low": -0.01, "removal_high": 0.015, "removal_q": 0.8},
    **{"paste_effect": 0.001, "paste_low": -0.005, "paste_high": 0.008, "paste_q": 0.8},
}
WIDE = NOTHING | {"removal_low": -0.2, "removal_high": 0.2, "effect_low": -0.2, "effect_high": 0.2}
UNTRIED = {
    **dict.fromkeys(("effect", "effect_low", "effect_high", "logit_effect", "q_used"), NAN),
    **dict.fromkeys(("removal_effect", "removal_low", "removal_high", "removal_q"), NAN),
    **dict.fromkeys(("paste_effect", "paste_low", "paste_high", "paste_q"), NAN),
    **{"n_ablated": 0, "n_pasted": 0},
}
NOT_REMOVED = {"n_ablated": 0, "removal_effect": NAN, "removal_low": NAN, "removal_high": NAN, "removal_q": NAN}
NOT_PASTED = {"n_pasted": 0, "paste_effect": NAN, "paste_low": NAN, "paste_high": NAN, "paste_q": NAN}
BY_PASTE = {**NOT_REMOVED, "effect": 0.1, "effect_low": 0.05, "effect_high": 0.15}
GAP = {"tie": "gap"}
DRAWN = {"object_source": "owlv2"}
OTHER_WAY = {"tie_sign": -1.0}

CASES = {
    "both legs": ({}, "spurious", "removing it moves the probability by -0.30"),
    "removed only": (NOT_PASTED, "spurious", "speaks for the class"),
    "pasted only": (BY_PASTE, "spurious", "pasting it into photos of other classes moves the probability by +0.10"),
    "tied by a gap": (GAP, "spurious", "Accuracy differs by +0.30 with it"),
    "against the class": (
        {**OTHER_WAY, "effect": -0.3, "effect_low": -0.4, "effect_high": -0.2, "logit_effect": -2.0}
        | {"removal_effect": -0.3, "removal_low": -0.4, "removal_high": -0.2}
        | {"paste_effect": -0.1, "paste_low": -0.15, "paste_high": -0.05},
        "spurious",
        "removing it moves the probability by +0.30 more than removing an equal control: it speaks against",
    ),
    "core by its name": ({"core_reason": "the class itself"}, "core", "part of the class: the class itself"),
    "core by its place": ({"object_overlap": 0.8}, "core", "80% of it lies on the object"),
    "core and untied": (UNTIED | {"core_reason": "a part"}, "core", "a part"),
    "core by a detector": ({"object_overlap": 0.8} | DRAWN, "core", "80% of it lies on the object, as owlv2 found it"),
    "core by boxes of both": (
        {"object_overlap": 0.8, "object_source": "given+owlv2"},
        "core",
        "on the object, as owlv2 found it where no box was given",
    ),
    "core by a map": (
        {"object_overlap": 0.8, "object_source": "attribution"},
        "core",
        "as the model's map of the photo",
    ),
    "a background in a given box": (
        {"object_overlap": 0.8, "object_source": "given", "kind": "background"},
        "core",
        "",
    ),
    "a background in a detector's box": ({"object_overlap": 0.8, "kind": "background"} | DRAWN, "spurious", ""),
    "beside the object": ({"object_overlap": 0.2}, "spurious", ""),
    "used and untied": (UNTIED, "used, not tied here", "not tied to the class"),
    "used the other way": (OTHER_WAY, "used, not tied here", "the other way round"),
    "a tie lost to the correction": ({"q_tied": 0.09}, "used, not tied here", "how many were tried"),
    "both legs at once lost to it": ({"q_tied": 0.04, "q_value": 0.09}, "not enough data", "both at once"),
    "clear, but lost to the correction": ({"q_used": 0.2, "q_value": 0.3}, "not enough data", "are too few"),
    "tied, surely unused": (NOTHING, "tied, not used", "within ±0.02 for certain"),
    "tied by a gap, surely unused": (NOTHING | GAP, "gap, not used", "Accuracy differs"),
    "surely unused by the one way tried": (NOTHING | NOT_PASTED, "tied, not used", ""),
    "used, but by too little": (
        NOTHING | {"q_used": 0.001, "effect": 0.01, "effect_low": 0.005, "removal_effect": 0.01, "removal_low": 0.005},
        "tied, not used",
        "",
    ),
    "too wide": (WIDE, "not enough data", "too wide to call it unused"),
    "one way too wide": (NOTHING | {"paste_low": -0.1, "paste_high": 0.1}, "not enough data", "too wide"),
    "no significance": ({"q_used": 0.06}, "not enough data", "not shown to do more than a control"),
    "the interval holds zero": ({"effect_low": -0.01}, "not enough data", "holds zero"),
    "log-odds say the opposite": ({"logit_effect": -1.0}, "not enough data", "the other in log-odds"),
    "fills disagree": ({"fills_agree": False}, "not enough data", "interventions disagree on its sign"),
    "the two ways contradict": (
        {"paste_effect": -0.1, "paste_low": -0.15, "paste_high": -0.05},
        "not enough data",
        "removal (+0.300) and paste-in (-0.100) disagree",
    ),
    "the other way is unclear": ({"paste_effect": -0.1, "paste_low": -0.15, "paste_high": 0.05}, "spurious", ""),
    "the other way is chance": (
        {"paste_effect": -0.1, "paste_low": -0.15, "paste_high": -0.05, "paste_q": 0.2},
        "spurious",
        "",
    ),
    "neither leg": (NOTHING | UNTIED, "no evidence", "Not tied to the class beyond chance"),
    "a weak tie, unused": (NOTHING | {"q_tied": 0.3, "q_value": 0.8}, "no evidence", "Not tied"),
    "few photos": ({"n_ablated": 7, "n_pasted": 7}, "not enough data", "0.20 could not have been seen"),
    "few removals, enough pastes": ({"n_ablated": 7}, "spurious", ""),
    "never tried, untied": (UNTRIED | UNTIED, "no evidence", "Not tied"),
    "never tried, tied": (UNTRIED, "not enough data", "Only 0 photos"),
    "never seen": (UNTRIED | UNTIED | {"n_with": 0, "n_audit_with": 0}, "not enough data", "Seen in 0 photos"),
}


@pytest.mark.parametrize(("changes", "verdict", "said"), CASES.values(), ids=list(CASES))
def test_the_evidence_decides_the_verdict(changes, verdict, said):
    found, reason = judge({**USED, **TIED, **changes}, RankConfig())
    assert (found, said in reason) == (verdict, True), reason
    assert reason[0].isupper()
    assert reason.endswith(".")
    assert "nan" not in reason


def test_every_verdict_that_one_row_decides_has_a_case():
    assert {verdict for _, verdict, _ in CASES.values()} == set(VERDICTS) - {
        "explained by another cue",
        "speaks for another class",
    }


@pytest.mark.parametrize(
    ("setting", "verdict"),
    [
        ({"level": 0.0005}, "no evidence"),
        ({"min_effect": 0.35}, "not enough data"),
        ({"min_effect": 0.45}, "tied, not used"),
        ({"min_images": 31}, "not enough data"),
    ],
)
def test_every_threshold_decides(setting, verdict):
    assert judge({**USED, **TIED}, RankConfig(**setting))[0] == verdict


def test_the_share_on_the_object_that_makes_it_core_is_a_threshold():
    row = {**USED, **TIED, "object_overlap": 0.6}
    assert [judge(row, RankConfig(core_overlap=share))[0] for share in (0.5, 0.7)] == ["core", "spurious"]
