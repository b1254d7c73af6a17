"""Answers about photos with a cue and without it → `perception`: accuracy, hallucination, choices, and their gaps."""

import zlib

import numpy as np
import polars as pl
from scipy import sparse, stats

from discovery.config import AssociateConfig
from discovery.draws import CHOICE, question_id, read_draws
from discovery.run import Run, Stage, frame_of
from discovery.stats import NOTHING, PROB_FLOOR, Estimate, adjust, gap, max_t_p

ALL = "all"
"""Wording of a row that speaks of all wordings together."""
SMOOTHING = 0.5
CLOSER, MORE = 0.01, 20
"""A p-value up to the first is taken again with so many times the shuffles."""
LEAST_PHOTOS = 3
"""Per side, for the interval of a mean."""


def perceive(draws: pl.DataFrame, answers: pl.DataFrame, config: AssociateConfig, seed: int) -> list[dict]:
    """Compares the answers about photos with a cue to those about photos without it.

    Args:
        draws: from `draw_photos`.
        answers: the table `answers`.
        config: its confidence and permutations.
        seed: of the permutations.

    Returns:
        Rows of `perception`: per class, cue and probe one for all wordings together, and one for each.
    """
    photos = _by_photo(answers)
    rows = []
    for (label, cue_id, probe), drawn in draws.group_by("label", "cue_id", "probe", maintain_order=True):
        asked = photos.get(question_id(probe, label))
        if asked is None:
            continue
        known = {"label": label, "cue_id": cue_id, "probe": probe, "phrase": drawn["phrase"][0]}
        rng = np.random.default_rng([seed, zlib.crc32(f"{label} {cue_id} {probe}".encode())])
        for (wording,), part in asked.group_by("wording", maintain_order=True):
            if probe == CHOICE and wording != ALL:  # there is but one
                continue
            both = drawn.join(part, on="sample_id", how="inner", maintain_order="left")
            rows.append(known | {"wording": wording} | _compare(both, config, rng))
    for p, q in (("gap_p", "gap_q"), ("logit_p", "logit_q")):
        summed = [row for row in rows if row["wording"] == ALL]
        for row, value in zip(summed, adjust([row[p] for row in summed]).tolist(), strict=True):
            row[q] = value
    return rows


def _by_photo(answers: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Returns question_id → one row per photo and wording, and per photo over all wordings.

    A photo is a hit where the clear answers speak for yes (a choice: for the photo's own class) more than for the other
    side. Where they balance, as of a model that always takes the first option, it is as unclear as without an answer.
    """
    clear = pl.col("prob").is_not_null()
    every = pl.concat([answers.with_columns(wording=pl.lit(ALL)), answers])
    summed = every.group_by("question_id", "sample_id", "wording", maintain_order=True).agg(
        n=pl.len(),
        n_clear=clear.sum(),
        measured=pl.col("measured").filter(clear).all(),
        ahead=pl.col("prob").sum() - pl.col("prob_against").sum(),
        share=pl.col("prob").sum(),
        against=pl.col("prob_against").sum(),
        log_odds=(
            pl.col("prob").clip(PROB_FLOOR, 1 - PROB_FLOOR).log()
            - pl.col("prob_against").clip(PROB_FLOOR, 1 - PROB_FLOOR).log()
        ).mean(),
        # The commonest of the clear choices, as a share of them.
        agreement=pl.col("chosen").drop_nulls().value_counts(sort=True).struct.field("count").first()
        / pl.col("chosen").drop_nulls().len(),
        n_chosen=pl.col("chosen").drop_nulls().len(),
    )
    bare = ((pl.col("share") + SMOOTHING) / (pl.col("against") + SMOOTHING)).log()
    summed = summed.with_columns(
        logit=pl.when(pl.col("n_clear") == 0).then(None).when("measured").then("log_odds").otherwise(bare),
        hit=pl.when((pl.col("n_clear") == 0) | (pl.col("ahead").abs() < 1e-9))
        .then(None)
        .otherwise(pl.col("ahead") > 0),
    )
    return {key[0]: part for key, part in summed.group_by("question_id", maintain_order=True)}


def _compare(both: pl.DataFrame, config: AssociateConfig, rng: np.random.Generator) -> dict:
    told, spoken = both.filter(pl.col("hit").is_not_null()), both.filter(pl.col("logit").is_not_null())
    seen = told["with_cue"].to_numpy()
    hit = told["hit"].to_numpy().astype(bool)
    k1, n1, k0, n0 = int(hit[seen].sum()), int(seen.sum()), int(hit[~seen].sum()), int((~seen).sum())
    found = gap(k1, n1, k0, n0, config.confidence)
    logit, shown = spoken["logit"].to_numpy().astype(np.float64), spoken["with_cue"].to_numpy()
    spread = _difference(logit[shown], logit[~shown], config.confidence)
    unclear = both.filter(pl.col("hit").is_null())["with_cue"]
    again = both.filter(pl.col("n_chosen") > 1)["agreement"]
    return {
        "n_with": n1,
        "n_without": n0,
        "rate_with": k1 / n1 if n1 else None,
        "rate_without": k0 / n0 if n0 else None,
        **_estimate("gap", "gap", found),
        "gap_p": _within_strata(told, hit.astype(np.float64), config, rng),
        "logit_with": float(logit[shown].mean()) if shown.any() else None,
        "logit_without": float(logit[~shown].mean()) if (~shown).any() else None,
        **_estimate("logit_gap", "logit", spread),
        "logit_p": _within_strata(spoken, logit, config, rng),
        "n_unclear_with": int(unclear.sum()),
        "n_unclear_without": int((~unclear).sum()),
        "n_answers": int(both["n"].sum()),
        "n_answers_unclear": int(both["n"].sum() - both["n_clear"].sum()),
        "consistency": again.mean() if len(again) else None,
    }


def _within_strata(photos: pl.DataFrame, value: np.ndarray, config: AssociateConfig, rng: np.random.Generator) -> float:
    """Returns the p-value of a gap when values are shuffled among the photos of each class and split."""
    spread = np.ptp(value) if len(value) else 0.0
    if spread == 0:
        return 1.0
    # For one cue the test's scale cancels; it is made for shares of one.
    scaled = (value - value.min()) / spread
    shown = sparse.csr_matrix(photos["with_cue"].to_numpy().astype(np.float32)[None])
    strata = photos["stratum"].to_numpy().astype(str)
    p = float(max_t_p(shown, scaled, strata, config.permutations, rng)[0])
    if p > CLOSER:
        return p
    # Else the number of shuffles would bound it, and with hundreds of tests no adjusted p-value could be small.
    return float(max_t_p(shown, scaled, strata, MORE * config.permutations, rng)[0])


def _difference(one: np.ndarray, two: np.ndarray, confidence: float) -> Estimate:
    """Returns a difference of means with Welch's interval (1947)."""
    if min(len(one), len(two)) < LEAST_PHOTOS:
        return NOTHING
    value = float(one.mean() - two.mean())
    if np.ptp(one) == 0 and np.ptp(two) == 0:
        return Estimate(value, value, value)
    interval = stats.ttest_ind(one, two, equal_var=False).confidence_interval(confidence)
    return Estimate(value, float(interval.low), float(interval.high))


def _estimate(value: str, name: str, found: Estimate) -> dict[str, float | None]:
    numbers = {value: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {key: None if np.isnan(number) else number for key, number in numbers.items()}


def _work(run: Run, _: int | None) -> pl.DataFrame:
    rows = perceive(read_draws(run), run.read("answers"), run.config.associate, run.config.seed)
    return frame_of("perception", rows)


STAGE = Stage(
    name="perceive",
    table="perception",
    inputs=("answers", "cues", "presences", "samples"),
    config=lambda config: (config.ask, config.model.mllm, config.associate, config.rank),
    work=_work,
)
