"""Associations + effects → `cues`: one row per class and cue, with interval, adjusted p-value, verdict and reason."""

import zlib
from dataclasses import dataclass

import numpy as np
import polars as pl

from discovery.config import RankConfig
from discovery.run import Run, Stage, frame_of
from discovery.schema import VERDICTS
from discovery.stats import NOTHING, Estimate, adjust, mean_interval, sign_flip_p

CAREFUL_P = 0.01
"""Below it the sign-flip test is repeated with ten times the flips, so that its smallest p-value is 1e-5."""
COPIED = (
    *("label", "cue_id", "phrase", "kind", "source", "n_with", "n_without", "prevalence", "prevalence_rest"),
    *("cramers_v", "gap", "gap_low", "gap_high", "n_audit_with", "n_audit_without", "detectable_gap"),
    "hallucination_gap",
)


@dataclass(frozen=True)
class Use:
    """What the interventions on one cue in one class say.

    Attributes:
        effect: net loss of probability: removal minus control, mean over photos.
        logit: the same in log-odds, which is what is tested.
        p: sign-flip p-value over photos; NaN when nothing was ablated.
        n: photos ablated.
        n_flipped: photos whose right prediction the removal changed.
        fills_agree: whether no intervention points the other way (see `_agree`).
        object_overlap: mean share of the cue inside the object's box; NaN where there is none.
    """

    effect: Estimate
    logit: Estimate
    p: float
    n: int
    n_flipped: int
    fills_agree: bool
    object_overlap: float


UNTRIED = Use(NOTHING, NOTHING, np.nan, 0, 0, False, np.nan)


def measure_use(effects: pl.DataFrame, config: RankConfig, rng: np.random.Generator) -> Use:
    """Summarises the rows of `effects` of one class and cue; interventions on one photo are averaged first."""
    net = effects.with_columns(
        net=pl.col("effect") - pl.col("effect_control"),
        net_logit=pl.col("logit_effect") - pl.col("logit_effect_control"),
    )
    photos = net.group_by("sample_id", maintain_order=True).agg(
        pl.col("net", "net_logit", "object_overlap").mean(), pl.col("flipped").any()
    )
    values = photos["net_logit"].to_numpy()
    p = sign_flip_p(values, config.sign_flips, rng)
    if p < CAREFUL_P:
        p = sign_flip_p(values, 10 * config.sign_flips, rng)
    overlap = photos["object_overlap"].mean()
    return Use(
        effect=mean_interval(photos["net"].to_numpy(), config.bootstrap, rng),
        logit=mean_interval(values, config.bootstrap, rng),
        p=p,
        n=len(photos),
        n_flipped=int(photos["flipped"].sum()),
        fills_agree=_agree(net, config.min_images),
        object_overlap=np.nan if overlap is None else overlap,
    )


def _agree(net: pl.DataFrame, min_images: int) -> bool:
    """Tells whether no intervention's mean lies more than its standard error on the other side of zero.

    An intervention that was tried on fewer than `min_images` photos has no say, unless all were.
    """
    sides = net.group_by("intervention").agg(
        pl.col("net_logit").mean().alias("mean"),
        (pl.col("net_logit").std() / pl.len().sqrt()).fill_null(np.inf).alias("error"),
        pl.len().alias("n"),
    )
    sides = sides.filter(pl.col("n") >= min(min_images, sides["n"].max()))
    clear = sides.filter(pl.col("mean").abs() > pl.col("error"))["mean"].sign()
    return clear.n_unique() <= 1 and (not len(clear) or clear[0] == np.sign(net["net_logit"].mean()))


def judge(row: dict, config: RankConfig) -> tuple[str, str]:
    """Returns the verdict on a row of `cues` and the reason in one sentence.

    The row carries `core_reason`, `tie_sign`, `level_tied` and the columns of `cues`; see docs/method.md for the logic.
    """
    few = _too_few(row, config)
    if few:
        return "not enough data", few
    used, why_not = _used(row, config)
    tied = row["q_tied"] <= config.level
    toward = "for" if row["effect"] > 0 else "against"
    if used and row["core_reason"]:
        return "core", f"The model uses it, and it is part of the class: {row['core_reason']}."
    if used and (row["object_overlap"] or 0) >= config.core_overlap:
        return "core", f"The model uses it, and {row['object_overlap']:.0%} of it lies on the object."
    if used and tied and row["q_value"] <= config.level and row["tie_sign"] == np.sign(row["logit_effect"]):
        return "spurious", (
            f"{_tie(row)}, and removing it moves the probability by {-row['effect']:+.2f} more than removing "
            f"an equal control: it speaks {toward} the class."
        )
    if used:
        return "no evidence", "Removing it moves the model, but it is not tied to the class that way in these data."
    if tied:
        return "correlated, not used", f"{_tie(row)}, but {why_not}."
    return "no evidence", f"Neither tied to the class beyond chance nor shown to be used: {why_not}."


def _too_few(row: dict, config: RankConfig) -> str:
    if row["n_with"] < config.min_support and row["n_ablated"] < config.min_images:
        return (
            f"Seen in {row['n_with']} photos of the class, fewer than {config.min_support}, "
            f"and only {row['n_ablated']} of them could be ablated."
        )
    if row["n_ablated"] < config.min_images and not row["screened"]:
        return (
            f"Only {row['n_ablated']} audited photos of the class could be ablated, fewer than {config.min_images}; "
            f"an accuracy gap under {row['detectable_gap']:.2f} could not have been seen."
        )
    return ""


def _used(row: dict, config: RankConfig) -> tuple[bool, str]:
    """Tells whether the model uses the cue, and if not, why not."""
    if row["screened"]:
        return False, "its tie is too weak for ablation to be tried"
    if not row["q_used"] <= config.level:
        return False, f"removing it was not shown to do more than a control (net effect {row['effect']:+.3f})"
    if abs(row["effect"]) < config.min_effect:
        return False, f"its net effect {row['effect']:+.3f} is under the smallest that counts, {config.min_effect}"
    if row["effect_low"] <= 0 <= row["effect_high"]:
        return (
            False,
            f"the interval of its net effect holds zero ({row['effect_low']:+.3f} to {row['effect_high']:+.3f})",
        )
    if not row["fills_agree"]:
        return False, "the interventions disagree on its sign"
    return True, ""


def _tie(row: dict) -> str:
    if row["tie"] == "bias":
        more = "more" if row["tie_sign"] > 0 else "less"
        return (
            f"Seen in {row['prevalence']:.0%} of the class and {row['prevalence_rest']:.0%} of the rest ({more} often)"
        )
    return f"Accuracy differs by {row['gap']:+.2f} with it"


def rank(
    associations: pl.DataFrame, effects: pl.DataFrame, config: RankConfig, screen_p: float, seed: int
) -> pl.DataFrame:
    """Ranks cues per class: verdict first, then the bound of the effect's interval that is nearer to zero.

    Args:
        associations: the table.
        effects: the table.
        config: every threshold that decides a verdict.
        screen_p: ties with a larger p-value were not ablated.
        seed: of the resampling.
    """
    by_cue = dict(effects.group_by("label", "cue_id"))
    rows = []
    for row in associations.iter_rows(named=True):
        part = by_cue.get((row["label"], row["cue_id"]))
        rng = np.random.default_rng([seed, zlib.crc32(f"{row['label']}\n{row['cue_id']}".encode())])
        use = UNTRIED if part is None else measure_use(part, config, rng)
        rows.append(_row(row, use, screen_p))
    _adjust(rows)
    for row in rows:
        row["verdict"], row["reason"] = judge(row, config)
        row["score"] = _score(row)
    return _in_order(rows)


def _row(row: dict, use: Use, screen_p: float) -> dict:
    tie = _tie_of(row)
    # A cue that no photo shows, or all do, could not have been tied to anything: it is not one of the hypotheses.
    tried = row["bias_p"] is not None and row["cramers_v"] > 0
    screened = tried and tie["p_tied"] > screen_p
    p_used = use.p if use.n else 1.0
    return {
        **{name: row[name] for name in COPIED},
        **tie,
        "core_reason": row["core_reason"],
        "screened": screened,
        "effect": use.effect.value,
        "effect_low": use.effect.low,
        "effect_high": use.effect.high,
        "logit_effect": use.logit.value,
        "logit_low": use.logit.low,
        "logit_high": use.logit.high,
        "n_ablated": use.n,
        "n_flipped": use.n_flipped,
        "fills_agree": use.fills_agree,
        "object_overlap": use.object_overlap,
        "p_used": use.p,
        "p_both": max(tie["p_tied"], p_used) if tried else np.nan,
    }


def _tie_of(row: dict) -> dict:
    """Returns the stronger of the two ties; its p-value is doubled for having looked at both."""
    bias_p, gap_p = (1.0 if row[name] is None else row[name] for name in ("bias_p", "gap_p"))
    if bias_p <= gap_p:
        return {"tie": "bias", "p_tied": min(1.0, 2 * bias_p), "tie_sign": np.sign(row["bias_z"] or 0)}
    return {"tie": "gap", "p_tied": min(1.0, 2 * gap_p), "tie_sign": np.sign(row["gap"] or 0)}


def _adjust(rows: list[dict]) -> None:
    """Benjamini–Hochberg over everything tried in the run, for each leg and for both together.

    A cue is spurious when both legs hold, so its p-value is the larger of the two (Berger 1982).
    """
    for p, q in (("p_both", "q_value"), ("p_tied", "q_tied"), ("p_used", "q_used")):
        adjusted = adjust(np.array([row[p] for row in rows], float))
        for row, value in zip(rows, adjusted, strict=True):
            row[q] = float(value)


def _score(row: dict) -> float:
    """Returns the bound of the net effect's interval nearer to zero, its sign dropped; 0 when it spans zero."""
    low, high = row["effect_low"], row["effect_high"]
    if np.isnan(low) or low <= 0 <= high:
        return 0.0
    return float(min(abs(low), abs(high)))


def _in_order(rows: list[dict]) -> pl.DataFrame:
    rows.sort(key=_place)
    ranks: dict[str, int] = {}
    for row in rows:
        row["rank"] = ranks[row["label"]] = ranks.get(row["label"], 0) + 1
    columns = frame_of("cues", []).columns
    frame = frame_of("cues", [{name: row[name] for name in columns} for row in rows])
    floats = [name for name, dtype in frame.schema.items() if dtype.is_float()]
    return frame.with_columns(pl.col(floats).fill_nan(None))


def _place(row: dict) -> tuple:
    """Cues that speak for the class come before those that speak against it: they are why it is predicted."""
    effect = 0.0 if np.isnan(row["effect"]) else row["effect"]
    against = effect < 0
    return row["label"], VERDICTS.index(row["verdict"]), against, -row["score"], -abs(effect), row["phrase"]


def _work(run: Run, _: int | None) -> pl.DataFrame:
    config = run.config
    return rank(run.read("associations"), run.read("effects"), config.rank, config.ablate.screen_p, config.seed)


STAGE = Stage(
    name="rank",
    table="cues",
    inputs=("associations", "effects"),
    config=lambda config: (config.rank, config.ablate.screen_p),
    work=_work,
)
