"""Effects of one class and cue → what they say: net effect, interval and p-value, by removal and by paste-in."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from discovery.config import RankConfig
from discovery.dose import DOSE, UNDOSED, Response, measure_response
from discovery.stats import NOTHING, Estimate, mean_interval, sign_flip_p
from discovery.trials import PASTE, REMOVAL


@dataclass(frozen=True)
class Way:
    """What one way of intervening (removal or paste-in) says.

    Attributes:
        effect: net change of probability: cue minus control, mean over photos.
        logit: the same in log-odds, which is what is tested.
        p: sign-flip p-value, divided by the share of the error that the last look spends; 1 for too few photos, NaN
            for none.
        n: photos.
        n_flipped: photos whose prediction it changed.
        agree: whether no intervention of this way points the other way (see `_agree`).
    """

    effect: Estimate
    logit: Estimate
    p: float
    n: int
    n_flipped: int
    agree: bool


UNTRIED = Way(NOTHING, NOTHING, np.nan, 0, 0, True)


@dataclass(frozen=True)
class Use:
    """What all interventions on one cue in one class say.

    Attributes:
        removal: of photos of the class with the cue.
        paste: into photos of other classes without it.
        response: to more and more of it being removed, where it leaves no room for a control.
        n_forwards: forward passes spent.
        object_overlap: mean share of the cue inside the object's box; NaN where there is none.
        object_source: who drew those boxes, see `objects.Place`; several are joined by "+"; None for none.
    """

    removal: Way = UNTRIED
    paste: Way = UNTRIED
    response: Response = UNDOSED
    n_forwards: int = 0
    object_overlap: float = np.nan
    object_source: str | None = None

    @property
    def chosen(self) -> Way:
        """The way with the smaller p-value: what is reported."""
        if np.isnan(self.removal.p) or self.paste.p < self.removal.p:
            return self.paste
        return self.removal

    @property
    def p(self) -> float:
        """The p-value of use by either way, corrected for having looked at both; NaN when nothing was tried."""
        tried = [way.p for way in (self.removal, self.paste) if way.n]
        return min(1.0, min(tried) * len(tried)) if tried else np.nan


def measure_use(effects: pl.DataFrame, config: RankConfig, rng: np.random.Generator) -> Use:
    """Summarises the rows of `effects` of one class and cue.

    Args:
        effects: rows of both ways.
        config: bootstrap resamples, smallest number of photos.
        rng: of the resampling.
    """
    by_way = {key[0]: part for key, part in effects.group_by("way")}
    located = effects.filter(pl.col("way") != DOSE, pl.col("object_overlap").is_not_null())
    overlap, sources = located["object_overlap"].mean(), located["object_source"].drop_nulls().unique().sort()
    dosed = effects.filter(way=DOSE)
    return Use(
        removal=_measure(by_way[REMOVAL], config, rng) if REMOVAL in by_way else UNTRIED,
        paste=_measure(by_way[PASTE], config, rng) if PASTE in by_way else UNTRIED,
        response=measure_response(dosed, config, rng, _level_share(dosed)) if len(dosed) else UNDOSED,
        n_forwards=int(effects["n_forwards"].sum()),
        object_overlap=np.nan if overlap is None else overlap,
        object_source="+".join(sources) or None,
    )


def net_of(effects: pl.DataFrame) -> pl.DataFrame:
    """Returns per photo `net`, `net_logit`, `flipped`, and `unit`, the photo that the cue was removed or cut from.

    Interventions on one photo are averaged.
    """
    net = effects.with_columns(
        net=pl.col("effect") - pl.col("effect_control"),
        net_logit=pl.col("logit_effect") - pl.col("logit_effect_control"),
    )
    return net.group_by("sample_id", maintain_order=True).agg(
        pl.col("net", "net_logit").mean(), pl.col("flipped").any(), unit=pl.coalesce("source_id", "sample_id").first()
    )


def _measure(effects: pl.DataFrame, config: RankConfig, rng: np.random.Generator) -> Way:
    photos = net_of(effects)
    # What was cut from one source stands or falls together, however many photos it was pasted into.
    units = photos.group_by("unit", maintain_order=True).agg(pl.col("net", "net_logit").mean())
    values = units["net_logit"].to_numpy()
    share = _level_share(effects)
    # Fewer photos than a verdict asks for show nothing, however alike they are.
    p = sign_flip_p(values) if len(photos) >= config.min_images else 1.0
    return Way(
        effect=mean_interval(units["net"].to_numpy(), config.bootstrap, rng, 1 - 0.05 * share),
        logit=mean_interval(values, config.bootstrap, rng, 1 - 0.05 * share),
        p=min(1.0, p / share),
        n=len(photos),
        n_flipped=int(photos["flipped"].sum()),
        agree=_agree(effects, config.min_images),
    )


def _level_share(effects: pl.DataFrame) -> float:
    """Returns the share of the error that the last look spends: 1 where there was but one."""
    last = effects.sort(pl.col("look").fill_null(0))["level_share"][-1]
    return 1.0 if last is None else last


def _agree(effects: pl.DataFrame, min_images: int) -> bool:
    """Tells whether no intervention's mean lies more than two standard errors on the other side of zero.

    An intervention that was tried on fewer than `min_images` photos has no say, unless all were.
    """
    net = pl.col("logit_effect") - pl.col("logit_effect_control")
    sides = effects.group_by("intervention").agg(
        net.mean().alias("mean"), (net.std() / pl.len().sqrt()).fill_null(np.inf).alias("error"), pl.len().alias("n")
    )
    sides = sides.filter(pl.col("n") >= min(min_images, sides["n"].max()))
    clear = sides.filter(pl.col("mean").abs() > 2 * pl.col("error"))["mean"].sign()
    overall = np.sign((effects["logit_effect"] - effects["logit_effect_control"]).mean())
    return clear.n_unique() <= 1 and (not len(clear) or clear[0] == overall)
