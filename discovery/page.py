"""Cues, counts and galleries → the report's page: one HTML text that needs no other file and no network."""

import base64
import csv
import hashlib
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from polars import selectors

from discovery import __version__
from discovery.budget import look_sizes
from discovery.config import RunConfig
from discovery.gallery import Gallery, make_galleries
from discovery.run import Run
from discovery.schema import SCHEMA_VERSION, VERDICTS
from discovery.trials import PASTE, REMOVAL

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
CARD_VERDICTS = tuple(name for name in VERDICTS if name not in ("not enough data", "no evidence"))
DECIDING = (
    *("images_per_cue", "looks", "untied_images", "screen_p", "stop_level", "stop_effect", "stop_futile"),
    *("object", "object_area_frac", "attribution_level"),
)
"""Settings of `ablate` that decide which evidence a verdict has; `rank` decides by all of its own."""
MAX_CARDS = 60
"""Cues with photos on one page, and rows in its tables: what a browser opens at once, a few MB."""
MAX_ROWS = 2_000
MAX_SKIPPED = 200
PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "faiss-cpu",
    "scikit-learn",
    "numpy",
    "scipy",
    "polars",
    "pyarrow",
)


def render_page(run: Run, facts: dict[str, Any], counts: pl.DataFrame) -> str:
    """Renders the page.

    Args:
        run: the run, up to its ranking.
        facts: what names the run, printed at the head.
        counts: label, images, audited, right.

    Raises:
        DataError: a table is missing, or a photo that the page shows is.
    """
    cues = run.read("cues")
    cards = choose_cards(cues, run.config.report.cues_per_class)
    content = {
        "run": facts,
        "finding": finding(cues, counts["label"].to_list()),
        "verdict_counts": [(name, int((cues["verdict"] == name).sum())) for name in VERDICTS],
        "classes": _classes(run, cues, cards, counts),
        "axis": effect_axis(cards, run.config.rank.min_effect),
        "thresholds": _thresholds(run.config),
        "n_looks": len(look_sizes(run.config.ablate)),
        "config": run.config,
        "config_json": run.config.model_dump_json(indent=2),
        "skipped": _skipped(run.path / "skipped.csv"),
        "versions": _versions(),
    }
    return environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(content)


def finding(cues: pl.DataFrame, labels: list[str]) -> str:
    """Says in one or two plain sentences what the run found."""
    spurious = cues.filter(pl.col("verdict") == "spurious").sort("score", descending=True, nulls_last=True)
    if spurious.is_empty():
        unknown = int((cues["verdict"] == "not enough data").sum())
        rest = f" {unknown} of {len(cues)} could not be judged, which does not clear them." if unknown else ""
        return f"No spurious cue was found among the {len(cues)} class–cue pairs that were tried.{rest}"
    first = spurious.row(0, named=True)
    pairs = "one spurious cue" if len(spurious) == 1 else f"{len(spurious)} spurious cues"
    where = f"in {spurious['label'].n_unique()} of {len(labels)} classes"
    lead = f"The model leans on {pairs} {where}; the plainest is “{first['phrase']}” for {first['label']}"
    if not _finite(first["effect"]):
        return f"{lead}."
    pasted = headline(first) == PASTE
    done = "pasting it into photos of other classes" if pasted else "removing it"
    moved, of = ("adds", "to") if (first["effect"] > 0) == pasted else ("costs", "of")
    size = f"{abs(first['effect']):.2f} {of} the probability of {first['label']}"
    return f"{lead}: {done} {moved} {size}, net of what a matched control does."


def headline(cue: dict[str, Any]) -> str | None:
    """Returns the way that a row's `effect` is of: the one with the smaller p-value; None when none was tried."""
    ways = [(cue[f"{way}_p"], way) for way in (REMOVAL, PASTE) if _finite(cue[f"{way}_p"])]
    return min(ways, key=lambda way: way[0])[1] if ways else None


def choose_cards(cues: pl.DataFrame, per_class: int) -> pl.DataFrame:
    """Returns the cues that are shown with photos: the reported verdicts, best of each class first."""
    place = pl.int_range(pl.len()).over("label").alias("place")
    ranked = _in_order(cues.filter(pl.col("verdict").is_in(CARD_VERDICTS))).with_columns(place)
    best = ranked.filter(pl.col("place") < per_class).sort("place", "label", maintain_order=True).head(MAX_CARDS)
    return best.drop("place")


def effect_axis(cards: pl.DataFrame, min_effect: float) -> dict[str, float]:
    """Returns the common ends of all interval plots, so that their lengths compare across the page."""
    names = [f"{way}_{end}" for way in (REMOVAL, PASTE) for end in ("effect", "low", "high")]
    ends = [value for name in names for value in cards[name] if _finite(value)]
    low, high = min([-min_effect * 2, *ends]), max([min_effect * 2, *ends])
    return {"low": low - 0.06 * (high - low), "high": high + 0.06 * (high - low), "min_effect": min_effect}


def _classes(run: Run, cues: pl.DataFrame, cards: pl.DataFrame, counts: pl.DataFrame) -> list[dict[str, Any]]:
    galleries = make_galleries(run, cards)
    observed = ["accuracy_with", "accuracy_without", "hallucination_low", "hallucination_high"]
    keys = ["label", "cue_id"]
    full = _in_order(cues.join(run.read("associations", columns=[*keys, *observed]), on=keys, how="left"))
    full = full.with_columns(selectors.float().fill_nan(None))
    shown = full.join(cards, on=keys, how="semi", maintain_order="left")
    rest = full.join(cards, on=keys, how="anti", maintain_order="left")
    limit = max(3, min(25, MAX_ROWS // max(1, len(counts))))
    classes = []
    for number, count in enumerate(counts.iter_rows(named=True), 1):
        others = rest.filter(pl.col("label") == count["label"])
        place = {
            "anchor": f"class-{number}",
            "accuracy": count["right"] / count["audited"] if count["audited"] else None,
            "cards": _cards(shown.filter(pl.col("label") == count["label"]), galleries, number),
            "rows": others.head(limit).to_dicts(),
            "more": max(0, len(others) - limit),
        }
        classes.append(count | place)
    return classes


def _cards(shown: pl.DataFrame, galleries: dict[tuple[str, str], Gallery], number: int) -> list[dict[str, Any]]:
    # Anchors are numbers: a class or a phrase is free text and no name for a place.
    return [
        row | {"anchor": f"cue-{number}-{place}", "photos": galleries[row["label"], row["cue_id"]]}
        for place, row in enumerate(shown.iter_rows(named=True), 1)
    ]


def _in_order(cues: pl.DataFrame) -> pl.DataFrame:
    order = pl.col("verdict").replace_strict(VERDICTS, range(len(VERDICTS)), default=len(VERDICTS))
    return cues.sort("label", order, "rank", "cue_id", nulls_last=True)


def _thresholds(config: RunConfig) -> list[dict[str, Any]]:
    names = [f"rank.{name}" for name in type(config.rank).model_fields] + [f"ablate.{name}" for name in DECIDING]
    rows = []
    for name in names:
        section, key = name.split(".")
        part = getattr(config, section)
        meaning = type(part).model_fields[key].description or ""
        rows.append({"name": name, "value": getattr(part, key), "meaning": meaning})
    return rows


def _skipped(path: Path) -> dict[str, Any]:
    """Reads the list of photos that could not be used, if there is one; only its head is shown."""
    if not path.is_file():
        return {"columns": [], "rows": [], "total": 0}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        columns = next(reader, [])
        rows = list(islice(reader, MAX_SKIPPED))
        return {"columns": columns, "rows": rows, "total": len(rows) + sum(1 for _ in reader)}


def _versions() -> dict[str, str]:
    found = {
        "discovery": __version__,
        "table schema": str(SCHEMA_VERSION),
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def environment() -> jinja2.Environment:
    """Returns the environment that pages are rendered in."""
    # Phrases and labels come from users and models: everything is escaped, whatever the file is called.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    environment.filters |= {"number": _number, "p": _p, "percent": _percent, "sha256": _sha256, "headline": headline}
    return environment


def _number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    if not _finite(value):
        return "–"
    rounded = round(value, digits) + 0.0  # a negative nothing is plain nothing
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "−")


def _p(value: float | None) -> str:
    if not _finite(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _percent(value: float | None) -> str:
    return f"{100 * value:.1f} %" if _finite(value) else "–"


def _sha256(text: str) -> str:
    """Returns the hash by which the page's content policy admits its one script and no other."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
