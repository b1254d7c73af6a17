"""Effects so far → the photos that are tried next: those of the cues that are still in doubt.

Each class, cue and way (removal, paste-in) is an arm. Its photos are looked at `looks` times, each time with twice as
many. An arm stops at a look when its interval is decisive. Each look spends a share of the error, so that stopping
early does not make a finding easier (alpha spending, Lan & DeMets 1983): little at the early ones, where only a glaring
effect is to stop, and nearly all at the last. A forward pass answers for all classes at once, so it is spent once.
"""

import numpy as np
import polars as pl
from scipy import stats

from discovery.config import AblateConfig
from discovery.trials import PASTE, REMOVAL

ARM = ["label", "cue_id", "way"]
PASS = ["cue_id", "way", "sample_id", "source_id"]
"""Rows that agree in these are answered by the same forward passes."""
LAST_SHARE = 0.9
"""Share of the error that an arm's last look spends; the ones before it share the rest."""


def look_sizes(config: AblateConfig) -> tuple[int, ...]:
    """Returns how many photos of an arm have been tried after each look, at most."""
    sizes = {max(1, config.images_per_cue // 2**back) for back in range(config.looks)}
    return tuple(sorted(sizes))


def photos_for(trials: pl.DataFrame, effects: pl.DataFrame, look: int, config: AblateConfig) -> pl.DataFrame:
    """Returns the rows of the queues that are tried at a look, with `level_share` and `dosed`.

    Args:
        trials: as in `queues.Queues`.
        effects: rows of all earlier looks.
        look: counted from 0.
        config: sizes of the looks, the level, and the budget.
    """
    sizes = look_sizes(config)
    first = pl.when("tied").then(sizes[0]).otherwise(min(sizes[0], config.untied_images))
    starts = [pl.lit(0), first, *(pl.lit(size) for size in sizes[1:-1])][: len(sizes)]
    stop = first if look == 0 else pl.lit(sizes[look])
    n_looks = pl.sum_horizontal(start <= pl.col("position").max().over(ARM) for start in starts)
    trials = trials.with_columns(level_share=_share_of(look, n_looks), dosed=_is_dosed(look, config))
    due = trials.filter(pl.col("position") >= starts[look], pl.col("position") < stop)
    if look:
        n_pairs = trials.select("label", "cue_id").n_unique()
        arms = trials.select(*ARM, "tied", "tie_sign").unique(maintain_order=True)
        due = _still_due(due, in_doubt(arms, effects, n_pairs, config))
    else:
        due = due.with_columns(doubt=pl.lit(np.inf))
    return _within_budget(due, int(effects["n_forwards"].sum()), config).drop("doubt")


def _share_of(look: int, n_looks: pl.Expr) -> pl.Expr:
    """Returns the share of the error that a look spends on an arm whose queue is long enough for `n_looks`."""
    early = (1 - LAST_SHARE) / (n_looks - 1)
    return pl.when(n_looks == 1).then(1.0).when(n_looks == look + 1).then(LAST_SHARE).otherwise(early)


def _is_dosed(look: int, config: AblateConfig) -> pl.Expr:
    """Tells whether a removal is also tried by doses: not before the cue has a prospect, unless its queue is short."""
    short = pl.col("position").max().over(ARM) + 1 < look_sizes(config)[0] + config.min_images
    return short if look == 0 else pl.lit(value=True)


def _still_due(due: pl.DataFrame, doubtful: pl.DataFrame) -> pl.DataFrame:
    """Keeps the arms in doubt; what is pasted for one of them is evidence for all tied classes at no further cost."""
    kept = due.join(doubtful, on=ARM, maintain_order="left")
    made = kept.filter("tied", way=PASTE).select(PASS).unique()
    beside = due.join(doubtful, on=ARM, how="anti", maintain_order="left").filter("tied")
    beside = beside.join(made, on=PASS, how="semi", maintain_order="left")
    return pl.concat([kept, beside.with_columns(doubt=pl.lit(0.0))])


def in_doubt(arms: pl.DataFrame, effects: pl.DataFrame, n_pairs: int, config: AblateConfig) -> pl.DataFrame:
    """Returns the arms whose interval is not decisive yet, with `doubt`, the width of that interval.

    Decisive is: *used* (log-odds differ from zero even after a correction for all pairs, and the interval of the
    probability lies beyond `stop_effect`), *not used* (the interval lies within ± `stop_effect`), and *no prospect*: an
    uncorrected p-value above `stop_futile`, or above the level for a cue that is not tied to the class or whose effect
    points against the sign of its tie, since neither could be spurious.

    Args:
        arms: label, cue_id, way, tied, tie_sign.
        effects: rows so far.
        n_pairs: classes and cues tried in the run.
        config: level and effect.
    """
    found = arms.join(_moments(effects), on=ARM, how="left", maintain_order="left")
    level = config.stop_level * found["level_share"].fill_null(1.0).to_numpy()
    n = found["n"].fill_null(0).to_numpy().astype(float)
    dof = np.maximum(n - 1, 1)
    mean, error = found["mean"].fill_null(0.0).to_numpy(), found["error"].fill_null(np.inf).to_numpy()
    half = np.where(n > 1, stats.t.isf(level / 2, dof) * error, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num(np.abs(found["logit_mean"].to_numpy()) / found["logit_error"].to_numpy(), nan=0.0)
    # A sign-flip test over n photos, which is what is reported, cannot be surer than 2 / 2^n.
    p = np.where(n > 1, np.maximum(2 * stats.t.sf(t, dof), 2.0 ** (1 - n)), 1.0)
    used = (p * 2 * n_pairs <= level) & (np.abs(mean) - half >= config.stop_effect)
    unused = (n > 1) & (np.abs(mean) + half <= config.stop_effect)
    tied = found["tied"].to_numpy()
    against = np.nan_to_num(found["logit_mean"].to_numpy() * found["tie_sign"].to_numpy()) < 0
    prospect = np.where(against, min(config.stop_level, config.stop_futile), config.stop_futile)
    # A tied cue that could be tried on a few photos only is not given up for that.
    hopeless = np.where(tied, (p > prospect) & (n >= config.min_images), p > config.stop_level)
    open_arms = found.with_columns(doubt=pl.Series(2 * half)).filter(~pl.Series(used | unused | hopeless))
    return open_arms.select(*ARM, "doubt")


def n_forwards_at_most(config: AblateConfig, n_audit_with: int) -> int:
    """Returns the forward passes that one class and cue would cost by itself: every photo, every way."""
    removals = min(config.images_per_cue, n_audit_with) if n_audit_with >= config.min_images else 0
    return 2 * (removals * config.fills_per_photo + (config.images_per_cue if config.paste else 0))


def _moments(effects: pl.DataFrame) -> pl.DataFrame:
    """Returns per arm the mean and standard error of the net effect in probability and log-odds, over `n` units.

    The unit is the photo that a cue was removed from or cut from: photos with the same patch are no news of the cue.
    """
    units = effects.with_columns(
        unit=pl.coalesce("source_id", "sample_id"),
        net=pl.col("effect") - pl.col("effect_control"),
        net_logit=pl.col("logit_effect") - pl.col("logit_effect_control"),
    )
    shares = effects.sort("look").group_by(ARM).agg(pl.col("level_share").last())
    units = units.group_by(*ARM, "unit").agg(pl.col("net", "net_logit").mean())
    root = pl.len().sqrt()
    found = units.group_by(ARM).agg(
        n=pl.len(),
        mean=pl.col("net").mean(),
        error=pl.col("net").std() / root,
        logit_mean=pl.col("net_logit").mean(),
        logit_error=pl.col("net_logit").std() / root,
    )
    return found.join(shares, on=ARM)


def _within_budget(due: pl.DataFrame, spent: int, config: AblateConfig) -> pl.DataFrame:
    """Cuts what is due to the forwards that are left: arms of tied cues first, those of which least is known before."""
    if not config.max_forwards:
        return due
    order = due.with_row_index("row").sort(
        ["tied", "doubt", "position", "label", "cue_id", "way"], descending=[True, True, False, False, False, False]
    )
    cost = pl.when(pl.col("way") == REMOVAL).then(2 * config.fills_per_photo).otherwise(2)
    cost = pl.when(pl.struct(PASS).is_first_distinct()).then(cost).otherwise(0)
    kept = order.filter(cost.cum_sum() <= config.max_forwards - spent)
    return kept.sort("row").drop("row")
