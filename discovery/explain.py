"""Cues that were found and their effects → those that stand only on another cue, or for another class.

A coarse window holds the stamp that lies in it, and "text" is there wherever a date stamp is. Removing the one removes
the other, so that each looks used. What tells them apart are the photos that show one without the other.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from discovery.config import RankConfig
from discovery.stats import sign_flip_p
from discovery.use import net_of

STANDS, FALLS, UNKNOWN = "stands", "falls", "unknown"
FOR = ("spurious", "core", "explained by another cue", "used, not tied here")
"""Verdicts on a cue that the model uses."""
ALIKE = 0.1
"""Shares that differ by less say that two cues lie over each other equally often."""


def find_mirrored(rows: list[dict]) -> list[tuple[dict, dict]]:
    """Finds cues that take from one class no more than they give to another one.

    Probabilities sum to one: a cue that speaks for A speaks against every B by that alone, and the log-odds of B then
    lose at most what those of A win (equal where A and B are all there is). So a spurious cue against B is no finding
    of its own unless it takes surely more: where the bound of its interval nearer to zero is beyond A's farther one.

    Args:
        rows: of `cues`, of all classes, with their verdicts.

    Returns:
        (row against its class, row of the same cue for the class that it speaks for) pairs.
    """
    gains: dict[str, dict] = {}
    for row in rows:
        if row["verdict"] in FOR and row["logit_effect"] > 0:
            best = gains.get(row["cue_id"])
            if best is None or row["logit_effect"] > best["logit_effect"]:
                gains[row["cue_id"]] = row
    against = [row for row in rows if row["verdict"] == "spurious" and row["logit_effect"] < 0]
    return [
        (row, gains[row["cue_id"]])
        for row in against
        if row["cue_id"] in gains and -row["logit_high"] <= gains[row["cue_id"]]["logit_high"]
    ]


@dataclass(frozen=True)
class _Link:
    """How a cue fares without another one.

    Attributes:
        share: of its photos in which the other one goes with it.
        state: `stands` (its effect is shown in the photos without the other), `falls` (it is not, and is smaller
            there), or `unknown` (too few such photos, or neither).
        adds: whether its effect is larger where the other one is too.
    """

    share: float
    state: str
    adds: bool


def find_explained(rows: list[dict], effects: dict, config: RankConfig) -> list[tuple[dict, dict]]:
    """Finds the cues of one class that stand only on another one.

    B is explained by A when both act the same way, A goes with B, and B's effect is smaller and not shown in the photos
    without A; or when there are too few such photos to say and A goes with more than `explained_share` of B. A cue with
    a rough place never explains one with an exact place for lack of photos, and what is core explains no background: a
    window that shows the diver holds the sea. Of two cues that would explain each other
    the one with an exact place stays, then the narrower one, then the one with the higher score.

    Args:
        rows: of `cues`, spurious or core, of one class; `paste_effect` tells which way is reported.
        effects: (label, cue_id) → its rows of `effects`.
        config: thresholds.

    Returns:
        (explained, by which) pairs.
    """
    own = {row["cue_id"]: _reported(row, effects[row["label"], row["cue_id"]]) for row in rows}
    sharp = {cue: bool(part["sharp"].fill_null(value=False).any()) for cue, part in own.items()}
    links = {
        (row["cue_id"], other["cue_id"]): _link(row, other, own[row["cue_id"]], config)
        for row in rows
        for other in rows
        if row is not other and np.sign(row["effect"]) == np.sign(other["effect"])
        if not (row["kind"] == "background" and other["verdict"] == "core")
    }

    def depends(cue: str, other: str) -> bool:
        link = links.get((cue, other))
        if link is None:
            return False
        if link.state == FALLS:
            return link.share > 0
        # What makes the other one stronger adds something of its own.
        back = links.get((other, cue))
        told_apart = back is not None and back.adds and back.state == STANDS
        enough = link.share > config.explained_share and (sharp[other] or not sharp[cue])
        return link.state == UNKNOWN and enough and not told_apart

    found = []
    for row in rows:
        cue = row["cue_id"]
        better = [
            other
            for other in rows
            if (cue, other["cue_id"]) in links
            and depends(cue, other["cue_id"])
            and not (depends(other["cue_id"], cue) and _stays(row, other, links, sharp))
        ]
        if better and row["verdict"] == "spurious":
            found.append((row, max(better, key=lambda other: (links[cue, other["cue_id"]].share, other["score"]))))
    return found


def _reported(row: dict, effects: pl.DataFrame) -> pl.DataFrame:
    way = "removal" if row["effect"] == row["removal_effect"] else "paste"
    return effects.filter(pl.col("way") == way)


def _link(row: dict, other: dict, effects: pl.DataFrame, config: RankConfig) -> _Link:
    goes = pl.col("covered_by").list.contains(other["cue_id"]).fill_null(value=False)
    together, alone = net_of(effects.filter(goes)), net_of(effects.filter(~goes))
    share = len(together) / max(1, len(together) + len(alone))
    if len(alone) < config.min_images:
        return _Link(share, UNKNOWN, adds=False)
    sign = np.sign(row["effect"])
    values, beside = alone["net_logit"].to_numpy() * sign, together["net_logit"].to_numpy() * sign
    adds = len(beside) > 1 and _greater(beside, values) <= config.level
    p = sign_flip_p(values)
    if p <= config.level and values.mean() > 0 and abs(alone["net"].mean()) >= config.min_effect:
        return _Link(share, STANDS, adds=adds)
    return _Link(share, FALLS if adds else UNKNOWN, adds=adds)


def _greater(one: np.ndarray, two: np.ndarray) -> float:
    """Returns the p-value that the mean of the first is not greater (Welch 1947); 1 where neither varies."""
    if np.ptp(one) < 1e-9 and np.ptp(two) < 1e-9:
        return 0.0 if one.mean() > two.mean() else 1.0
    return float(stats.ttest_ind(one, two, equal_var=False, alternative="greater").pvalue)


def _stays(row: dict, other: dict, links: dict, sharp: dict[str, bool]) -> bool:
    """Tells which of two cues that would explain each other stays: the first?"""
    one, two = row["cue_id"], other["cue_id"]
    if sharp[one] != sharp[two]:
        return sharp[one]
    mine, its = links[one, two].share, links[two, one].share
    if abs(mine - its) > ALIKE:
        return mine > its  # it hardly occurs without the other one: it is the narrower
    return (row["score"], one) > (other["score"], two)
