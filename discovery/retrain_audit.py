"""Effects and predictions before and after a repair → `audits`: what became of each cue, and how right the model is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from discovery.config import RankConfig
from discovery.run import frame_of
from discovery.stats import adjust, gap, mean_interval, sign_flip_p
from discovery.trials import PASTE, REMOVAL
from discovery.use import measure_use, net_of

CHOSEN, NULL = "chosen", "null"
REPAIRED, STILL_USED, REPLACED, UNKNOWN = "repaired", "still used", "replaced by another cue", "not enough data"
WORSE, AS_BEFORE = "worse", "as before"
LEFT = 1 / 3
"""Share of a cue's net effect that may be left of it when it counts as repaired."""
PAIR = ["label", "cue_id"]


@dataclass(frozen=True)
class Judged:
    """The judged photos, and the fitted ones that say how common each group is in training.

    Attributes:
        label: (n,) str.
        right_before: (n,) bool, by the model as it was.
        right_after: (n,) bool, by the repaired one.
        shown: (n, k) bool.
        cue_ids: names of the k cues.
        fitted_label: (m,) str.
        fitted_shown: (m, k) bool.
    """

    label: np.ndarray
    right_before: np.ndarray
    right_after: np.ndarray
    shown: np.ndarray
    cue_ids: list[str]
    fitted_label: np.ndarray
    fitted_shown: np.ndarray


@dataclass(frozen=True)
class _Group:
    label: str
    share: float
    n: int
    before: float
    after: float


def audit(
    pairs: pl.DataFrame, effects: tuple[pl.DataFrame, pl.DataFrame], photos: Judged, config: RankConfig, seed: int
) -> pl.DataFrame:
    """Says of every chosen and every null pair what became of it.

    Args:
        pairs: label, cue_id, phrase, kind, role (`chosen` or `null`).
        effects: rows of `effects` before and after, of the same photos, sources, fills and controls.
        photos: predictions before and after.
        config: level, smallest effect, smallest number of photos.
        seed: of the resampling.

    Returns:
        The table `audits`.
    """
    rng = np.random.default_rng([seed, 5])
    rows = [
        {**pair, **_use(pair, effects, config, rng), **_accuracy(pair, photos, config)}
        for pair in pairs.select(*PAIR, "phrase", "kind", "role").iter_rows(named=True)
    ]
    for role in (CHOSEN, NULL):
        mine = [row for row in rows if row["role"] == role]
        for row, q in zip(mine, adjust(np.array([row["change_p"] for row in mine], float)), strict=True):
            row["change_q"] = float(q)
    for row in rows:
        row["outcome"] = _outcome(row, config)
    for row in rows:
        heirs = [r for r in rows if r["label"] == row["label"] and r is not row and _grew(r, config)]
        if row["outcome"] == REPAIRED and heirs:
            row["outcome"] = REPLACED
        row["reason"] = _reason(row, heirs)
    return frame_of("audits", rows)


def _use(
    pair: dict, effects: tuple[pl.DataFrame, pl.DataFrame], config: RankConfig, rng: np.random.Generator
) -> dict[str, Any]:
    mine = (pl.col("label") == pair["label"]) & (pl.col("cue_id") == pair["cue_id"])
    was, now = (part.filter(mine) for part in effects)
    use = measure_use(was, config, rng)
    way = REMOVAL if use.chosen is use.removal else PASTE
    both, n_photos = _paired(was, now, way)
    change = both["after"].to_numpy() - both["before"].to_numpy()
    row: dict[str, Any] = {"way": way if len(both) else None, "n_photos": n_photos}
    for name, values in (("effect_before", both["before"]), ("effect_after", both["after"]), ("change", change)):
        found = mean_interval(np.asarray(values), config.bootstrap, rng)
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    enough = n_photos >= config.min_images
    row["change_p"] = sign_flip_p(change) if enough else float("nan")
    row |= {"logit_before": both["logit_before"].mean(), "logit_after": both["logit_after"].mean()}
    for other in (REMOVAL, PASTE):
        its = both if other == way else _paired(was, now, other)[0]
        row |= {f"{other}_before": its["before"].mean(), f"{other}_after": its["after"].mean()}
    return row


def _paired(was: pl.DataFrame, now: pl.DataFrame, way: str) -> tuple[pl.DataFrame, int]:
    """Returns the net effects of one way before and after, per photo that the cue was in, and the number of photos.

    What was cut from one source stands or falls together, however many photos it was pasted into.
    """
    one, two = (net_of(part.filter(pl.col("way") == way)) for part in (was, now))
    both = one.join(two, on="sample_id", suffix="_after", maintain_order="left")
    units = both.group_by("unit", maintain_order=True).agg(
        before=pl.col("net").mean(),
        after=pl.col("net_after").mean(),
        logit_before=pl.col("net_logit").mean(),
        logit_after=pl.col("net_logit_after").mean(),
    )
    return units, len(both)


def _outcome(row: dict, config: RankConfig) -> str:
    if row["role"] == NULL:
        return WORSE if _grew(row, config) else AS_BEFORE
    if row["n_photos"] < config.min_images:
        return UNKNOWN
    before, after = row["effect_before"], row["effect_after"]
    small = abs(after) <= max(LEFT * abs(before), config.min_effect)
    fell = row["change_q"] <= config.level and abs(after) < abs(before)
    return REPAIRED if small and fell else STILL_USED


def _grew(row: dict, config: RankConfig) -> bool:
    """Tells whether the model uses a cue more than before, beyond chance: away from zero, and enough to count."""
    before, after = row["effect_before"], row["effect_after"]
    return bool(row["change_q"] <= config.level and abs(after) > abs(before) and abs(after) >= config.min_effect)


def _reason(row: dict, heirs: list[dict]) -> str:
    if row["n_photos"] == 0:
        return "It was tried on no judged photo."
    done = "removing it" if row["way"] == REMOVAL else "pasting it in"
    p = "p < 0.001" if row["change_p"] < 0.001 else f"p = {row['change_p']:.3f}"
    text = (
        f"Net effect of {done}: {row['effect_before']:+.3f} before, {row['effect_after']:+.3f} after, over the same "
        f"{row['n_photos']} photos (change {row['change']:+.3f}, {p})"
    )
    if row["outcome"] == REPLACED:
        named = ", ".join(
            f"{heir['phrase']!r} ({heir['effect_before']:+.3f} → {heir['effect_after']:+.3f})" for heir in heirs
        )
        return f"{text}; but the model now leans more on {named}."
    if row["outcome"] == STILL_USED and abs(row["effect_after"]) < abs(row["effect_before"]):
        return f"{text}; more than a third of it is left, or the fall may be chance."
    return f"{text}."


def _accuracy(pair: dict, photos: Judged, config: RankConfig) -> dict[str, Any]:
    column = photos.cue_ids.index(pair["cue_id"])
    own, shown = photos.label == pair["label"], photos.shown[:, column]
    row: dict[str, Any] = {"n_with": int((own & shown).sum()), "n_without": int((own & ~shown).sum())}
    for name, right in (("gap_before", photos.right_before), ("gap_after", photos.right_after)):
        hits = [int((right & own & side).sum()) for side in (shown, ~shown)]
        found = gap(hits[0], row["n_with"], hits[1], row["n_without"])
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    groups = groups_of(photos, column, 1)
    large = [group for group in groups if group.n >= config.min_images]
    for name in ("before", "after"):
        row[f"worst_{name}"] = min((getattr(group, name) for group in large), default=None)
        total = sum(group.share for group in groups)
        row[f"average_{name}"] = sum(g.share * getattr(g, name) for g in groups) / total if total else None
    return row


def groups_of(photos: Judged, column: int, least: int) -> list[_Group]:
    """Returns the groups class × presence of one cue that at least `least` judged photos are in."""
    found = []
    for label in sorted(set(photos.label)):
        for there in (True, False):
            mine = (photos.label == label) & (photos.shown[:, column] == there)
            if mine.sum() >= least:
                share = ((photos.fitted_label == label) & (photos.fitted_shown[:, column] == there)).mean()
                before, after = photos.right_before[mine].mean(), photos.right_after[mine].mean()
                found.append(_Group(label, float(share), int(mine.sum()), float(before), float(after)))
    return found


def accuracies(photos: Judged, chosen: list[str], config: RankConfig) -> dict[str, dict[str, float]]:
    """Returns how right the model is before and after: `accuracy`, `worst_group`, `average`, `macro_std`.

    `worst_group` is the least accuracy of any class × presence of any chosen cue with `min_images` photos; `average`
    weights these groups by their shares among the fitted photos; `macro_std` is the mean over classes of the standard
    deviation of the accuracies of a class's groups, weighted by size. The last two are means over the chosen cues.
    """
    by_cue = [groups_of(photos, photos.cue_ids.index(cue_id), 1) for cue_id in chosen]
    found = {}
    for name, right in (("before", photos.right_before), ("after", photos.right_after)):
        large = [getattr(g, name) for groups in by_cue for g in groups if g.n >= config.min_images]
        average = [sum(g.share * getattr(g, name) for g in groups) / sum(g.share for g in groups) for groups in by_cue]
        found[name] = {
            "accuracy": float(right.mean()),
            "worst_group": float(min(large)) if large else float("nan"),
            "average": float(np.mean(average)),
            "macro_std": float(np.mean([_macro_std(groups, name) for groups in by_cue])),
        }
    return found


def _macro_std(groups: list[_Group], name: str) -> float:
    spreads = []
    for label in {group.label for group in groups}:
        mine = [group for group in groups if group.label == label]
        n, accuracy = np.array([group.n for group in mine]), np.array([getattr(group, name) for group in mine])
        mean = np.average(accuracy, weights=n)
        spreads.append(np.sqrt(np.average((accuracy - mean) ** 2, weights=n)))
    return float(np.mean(spreads))
