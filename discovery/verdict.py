"""One row of evidence → its verdict, and the reason in one sentence."""

import numpy as np

from discovery.attribution import ATTRIBUTION
from discovery.config import RankConfig
from discovery.objects import GIVEN

BEHIND = ("background", "border")
"""Kinds that are no object wherever they lie."""

CALLED = {ATTRIBUTION: "the model's map of the photo without it"}


def judge(row: dict, config: RankConfig) -> tuple[str, str]:
    """Returns the verdict on a row of `cues` and the reason; docs/method.md has the logic as a table.

    Args:
        row: the columns of `cues`, and `core_reason`, `tie` ("bias" or "gap"), `tie_sign`, `screened` (its tie was too
            weak to be spurious), `q_tied`, `q_used`, and `can_be_asked` (False: no model answers to changed photos).
        config: every threshold that decides.
    """
    if not row.get("can_be_asked", True):
        return _observed(row, config)
    if max(row["n_ablated"], row["n_pasted"]) < config.min_images:
        return _untried(row, config)
    used, why_not = _used(row, config)
    if not used:
        return _not_used(row, config, why_not)
    if row["core_reason"]:
        return "core", f"The model uses it, and it is part of the class: {row['core_reason']}."
    if on_object := _on_object(row, config):
        return "core", f"The model uses it, and {on_object}."
    if not row["q_tied"] <= config.level:
        untied = "it is not tied to the class in these data"
        chance = "its tie to the class may be chance, given how many were tried"
        return "used, not tied here", f"{_sentence(_moves(row))}, but {untied if row['screened'] else chance}."
    if row["tie_sign"] != np.sign(row["logit_effect"]):
        return "used, not tied here", f"{_sentence(_moves(row))}; {_lower(_tie(row))}, which is the other way round."
    if not row["q_value"] <= config.level:
        return (
            "not enough data",
            f"{_tie(row)}, and {_moves(row)}, but both at once may be chance, given how many were tried.",
        )
    return "spurious", f"{_tie(row)}, and {_moves(row)}."


def say_dose(row: dict, config: RankConfig) -> str:
    """Says what removing ever more of a cue did, and how that goes with its removal; nothing where it was not tried.

    Args:
        row: the columns of `cues`.
        config: level and smallest number of photos.
    """
    if row["n_dosed"] < config.min_images:
        return ""
    slope, low, high = row["dose_slope"], row["dose_low"], row["dose_high"]
    found = f" The more of it is filled, without a control, the log-odds change by {-slope:+.2f} for all of it"
    if not row["dose_p"] <= config.level or low <= 0 <= high:
        return f"{found}, which may be chance."
    if row["n_ablated"] < config.min_images or row["removal_low"] <= 0 <= row["removal_high"]:
        return f"{found}; no clear removal against a control confirms it."
    agrees = np.sign(slope) == np.sign(row["removal_effect"])
    return f"{found}, which {'agrees with' if agrees else 'contradicts'} its removal against a control."


def _observed(row: dict, config: RankConfig) -> tuple[str, str]:
    """Judges a cue of a model that is known by its predictions alone."""
    if row["screened"] or not row["q_tied"] <= config.level:
        return "no evidence", "Not tied to the class beyond chance in these data; intervention was not possible."
    return "not enough data", (
        f"{_tie(row)}; intervention was not possible, as the model is known by its predictions alone: whether it uses "
        "the cue cannot be said."
    )


def _untried(row: dict, config: RankConfig) -> tuple[str, str]:
    if row["n_with"] < config.min_support and row["n_audit_with"] < config.min_images:
        few = f"Seen in {row['n_with']} photos of the class, fewer than {config.min_support}"
        return "not enough data", f"{few}, and no intervention could be tried on {config.min_images} photos."
    if row["screened"]:
        return "no evidence", "Not tied to the class beyond chance in these data."
    return "not enough data", (
        f"Only {max(row['n_ablated'], row['n_pasted'])} photos could be intervened on, fewer than "
        f"{config.min_images}; an accuracy gap under {row['detectable_gap']:.2f} could not have been seen."
    )


def _on_object(row: dict, config: RankConfig) -> str:
    """Says how much of a cue lies on the object, and who found that; nothing where it is too little to make it core."""
    overlap, sources = row["object_overlap"] or 0, (row["object_source"] or GIVEN).split("+")
    drawn = " and ".join(CALLED.get(name, name) for name in sources if name != GIVEN)
    # A detector boxes an object with what is behind it, so that a box is no witness against the background.
    if not overlap >= config.core_overlap or (drawn and row["kind"] in BEHIND):
        return ""
    found = f"{overlap:.0%} of it lies on the object"
    if not drawn:
        return found
    return f"{found}, as {drawn} found it" + (" where no box was given" if GIVEN in sources else "")


def _used(row: dict, config: RankConfig) -> tuple[bool, str]:
    """Tells whether the model uses the cue, and if not, why not."""
    effect, low, high = row["effect"], row["effect_low"], row["effect_high"]
    if not row["q_used"] <= config.level:
        return False, f"it was not shown to do more than a control (net effect {effect:+.3f})"
    if abs(effect) < config.min_effect:
        return False, f"its net effect {effect:+.3f} is under the smallest that counts, {config.min_effect}"
    if low <= 0 <= high:
        return False, f"the interval of its net effect holds zero ({low:+.3f} to {high:+.3f})"
    if np.sign(effect) != np.sign(row["logit_effect"]):
        return False, "its net effect has one sign in probability and the other in log-odds"
    if not row["fills_agree"]:
        return False, "the interventions disagree on its sign"
    if _contradict(row, config):
        return False, (
            f"removal ({row['removal_effect']:+.3f}) and paste-in ({row['paste_effect']:+.3f}) disagree on its sign"
        )
    return True, ""


def _contradict(row: dict, config: RankConfig) -> bool:
    clear = [
        np.sign(row[f"{way}_effect"])
        for way in ("removal", "paste")
        if row[f"{way}_q"] <= config.level and not row[f"{way}_low"] <= 0 <= row[f"{way}_high"]
    ]
    return len(set(clear)) > 1


def _not_used(row: dict, config: RankConfig, why_not: str) -> tuple[str, str]:
    if row["screened"] or not row["q_tied"] <= config.level:
        return "no evidence", f"Not tied to the class beyond chance, and {why_not}."
    tried = [way for way, n in (("removal", "n_ablated"), ("paste", "n_pasted")) if row[n] >= config.min_images]
    inside = all(-config.min_effect <= row[f"{way}_low"] and row[f"{way}_high"] <= config.min_effect for way in tried)
    if inside:
        name = "tied, not used" if row["tie"] == "bias" else "gap, not used"
        return name, f"{_tie(row)}, but its net effect lies within ±{config.min_effect} for certain."
    low, high = row["effect_low"], row["effect_high"]
    if not row["q_used"] <= config.level and (low > 0 or high < 0):
        few = f"{max(row['n_ablated'], row['n_pasted'])} photos are too few, given how many cues were tried"
        return "not enough data", f"{_tie(row)}, but {why_not}: {few}."
    return "not enough data", (
        f"{_tie(row)}, but {why_not}, and the interval {low:+.3f} to {high:+.3f} is too wide to call it unused."
    )


def _tie(row: dict) -> str:
    if row["tie"] == "bias":
        more = "more" if row["tie_sign"] > 0 else "less"
        return (
            f"Seen in {row['prevalence']:.0%} of the class and {row['prevalence_rest']:.0%} of the rest ({more} often)"
        )
    gap = row["gap"] if row.get("gap_adjusted") is None else row["gap_adjusted"]
    return f"Accuracy differs by {gap:+.2f} with it"


def _moves(row: dict) -> str:
    """Says what the reported way showed."""
    toward = "for" if row["effect"] > 0 else "against"
    removal = row["effect"] == row["removal_effect"]
    change = -row["effect"] if removal else row["effect"]
    verb = "removing it" if removal else "pasting it into photos of other classes"
    control = "removing an equal control" if removal else "pasting an equal control"
    return f"{verb} moves the probability by {change:+.2f} more than {control}: it speaks {toward} the class"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
