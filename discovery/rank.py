"""Associations + effects → `cues`: one row per class and cue, with interval, adjusted p-value, verdict and reason."""

import zlib

import numpy as np
import polars as pl

from discovery.budget import n_forwards_at_most
from discovery.config import AblateConfig, RankConfig
from discovery.explain import find_explained, find_mirrored
from discovery.run import Run, Stage, frame_of
from discovery.schema import VERDICTS
from discovery.stats import adjust
from discovery.tie import tie_of
from discovery.use import Use, Way, measure_use
from discovery.verdict import judge, say_dose

COPIED = (
    *("label", "cue_id", "phrase", "kind", "source", "n_with", "n_without", "prevalence", "prevalence_rest"),
    *("cramers_v", "gap", "gap_low", "gap_high", "n_audit_with", "n_audit_without", "detectable_gap"),
    *("gap_adjusted", "gap_adjusted_low", "gap_adjusted_high", "gap_p_maxt", "hallucination_gap"),
)
EXPLAINERS = ("spurious", "core")


def rank(
    associations: pl.DataFrame,
    effects: pl.DataFrame,
    config: RankConfig,
    ablation: AblateConfig,
    seed: int,
    *,
    can_be_asked: bool = True,
) -> pl.DataFrame:
    """Ranks cues per class: verdict first, then the bound of the effect's interval that is nearer to zero.

    Args:
        associations: the table.
        effects: the table.
        config: every threshold that decides a verdict.
        ablation: how the effects were made: ties with p above `screen_p` are untied, and intervals hold at every look.
        seed: of the resampling.
        can_be_asked: there is a model behind the predictions; else no effect could be measured.
    """
    by_cue = dict(effects.group_by("label", "cue_id", maintain_order=True))
    rows = []
    for row in associations.iter_rows(named=True):
        part = by_cue.get((row["label"], row["cue_id"]))
        use = Use() if part is None else measure_use(part, config, _rng(seed, row))
        rows.append(_row(row, use, ablation))
    _adjust(rows)
    for row in rows:
        row["verdict"], row["reason"] = judge(row | {"can_be_asked": can_be_asked}, config)
        row["score"] = _score(row)
    _explain(rows, by_cue, config)
    _mirror(rows)
    for row in rows:
        row["reason"] += say_dose(row, config)
    return _in_order(rows)


def _row(row: dict, use: Use, ablation: AblateConfig) -> dict:
    tie = tie_of(row)
    # A cue that no photo shows, or all do, could not have been tied to anything: it is not one of the hypotheses.
    tried = row["bias_p"] is not None and row["cramers_v"] > 0
    chosen = use.chosen
    p_used = 1.0 if np.isnan(use.p) else use.p
    saved = n_forwards_at_most(ablation, row["n_audit_with"]) - use.n_forwards if tried else 0
    return {
        **{name: row[name] for name in COPIED},
        **tie,
        "core_reason": row["core_reason"],
        "screened": not tried or tie["p_tied"] > ablation.screen_p,
        **_estimate("effect", chosen, "effect"),
        **{"logit_effect": chosen.logit.value, "logit_low": chosen.logit.low, "logit_high": chosen.logit.high},
        **_estimate("removal", use.removal, "removal_effect"),
        **_estimate("paste", use.paste, "paste_effect"),
        **{"n_dosed": use.response.n, "dose_slope": use.response.slope.value, "dose_p": use.response.p},
        **{"dose_low": use.response.slope.low, "dose_high": use.response.slope.high},
        "n_ablated": use.removal.n,
        "n_pasted": use.paste.n,
        "n_flipped": chosen.n_flipped,
        "fills_agree": chosen.agree,
        **{"object_overlap": use.object_overlap, "object_source": use.object_source},
        "removal_p": use.removal.p,
        "paste_p": use.paste.p,
        "p_used": use.p,
        "p_both": max(tie["p_tied"], p_used) if tried else np.nan,
        "explained_by": None,
        "n_forwards": use.n_forwards,
        "n_forwards_saved": max(0, saved),
    }


def _estimate(name: str, way: Way, value: str) -> dict[str, float]:
    return {value: way.effect.value, f"{name}_low": way.effect.low, f"{name}_high": way.effect.high}


def _adjust(rows: list[dict]) -> None:
    """Benjamini–Hochberg over everything tried in the run, for each leg and for both together.

    A cue is spurious when both legs hold, so its p-value is the larger of the two (Berger 1982).
    """
    pairs = {
        "p_both": "q_value",
        "p_tied": "q_tied",
        "p_used": "q_used",
        "removal_p": "removal_q",
        "paste_p": "paste_q",
    }
    for p, q in pairs.items():
        adjusted = adjust(np.array([row[p] for row in rows], float))
        for row, value in zip(rows, adjusted, strict=True):
            row[q] = float(value)


def _explain(rows: list[dict], by_cue: dict, config: RankConfig) -> None:
    """Marks spurious cues that stand only on another cue of their class."""
    for label in dict.fromkeys(row["label"] for row in rows):
        used = [row for row in rows if row["label"] == label and row["verdict"] in EXPLAINERS]
        for row, other in find_explained(used, by_cue, config):
            row["verdict"], row["explained_by"] = "explained by another cue", other["phrase"]
            row["reason"] = (
                f"Where it is, {other['phrase']!r} is too and goes with it; in photos without {other['phrase']!r} "
                "no effect of its own was shown."
            )


def _mirror(rows: list[dict]) -> None:
    """Marks spurious cues that speak against their class only because they speak for another one."""
    for row, other in find_mirrored(rows):
        row["verdict"], row["explained_by"] = "speaks for another class", f"{row['phrase']}, for {other['label']}"
        row["reason"] = (
            f"{row['reason'].removesuffix('.')}, no more than follows from its speaking for {other['label']!r} "
            f"(log-odds {row['logit_effect']:+.2f} here, {other['logit_effect']:+.2f} there)."
        )


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


def _rng(seed: int, row: dict) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(f"{row['label']}\n{row['cue_id']}".encode())])


def _work(run: Run, _: int | None) -> pl.DataFrame:
    config = run.config
    tables = run.read("associations"), run.read("effects")
    return rank(*tables, config.rank, config.ablate, config.seed, can_be_asked=config.model.can_be_asked)


STAGE = Stage(
    name="rank",
    table="cues",
    inputs=("associations", "effects"),
    config=lambda config: (config.rank, config.ablate, config.model.can_be_asked),
    work=_work,
)
