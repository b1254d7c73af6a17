"""A trained model and an audited set with known cues → what the pipeline and every peer report, and how well."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from discovery.config import make_config
from discovery.corridor import STAGES, plan, work
from discovery.run import Run, frame_of
from tests.benchmarks.peers import PEERS, Evidence

TOP = 10
OURS = "this pipeline"


@dataclass(frozen=True)
class Target:
    """A planted cue that the model may have learned.

    Attributes:
        cues: the candidates that are it.
        label: the class it goes with.
        tau: learned strength.
        kind: of the cue.
    """

    cues: frozenset[int]
    label: int
    tau: float
    kind: str


@dataclass(frozen=True)
class Setting:
    """One model to be audited and all that is known of it.

    Attributes:
        name: unique; results are kept under it.
        facts: what the table groups by: arena, null (kind of null, or ""), cramers_v, seed, accuracy.
        config: values of the run's configuration.
        tables: the tables up to `presences`, as the stages would have left them.
        evidence: the audited part of the same, for the peers; its probabilities of single regions are not filled in.
        region_probs: computes those, (r, c); only peers read them.
        cue_ids: names of the candidates, in the order of `evidence.cue_present`.
        role: per class and candidate "cue", "decoy", "unused" or "" (nothing planted).
        targets: the planted cues.
        planted_region: (r,) bool, regions of `evidence` that hold the planted cue.
    """

    name: str
    facts: dict
    config: dict
    tables: dict[str, pl.DataFrame]
    evidence: Evidence
    region_probs: Callable[[], np.ndarray]
    cue_ids: tuple[str, ...]
    role: tuple[tuple[str, ...], ...]
    targets: tuple[Target, ...]
    planted_region: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


@dataclass(frozen=True)
class Answer:
    """What a method says: (candidate, class) entries best first, which of them it reports, and its ten top regions."""

    cue: np.ndarray
    label: np.ndarray
    reported: np.ndarray
    region: np.ndarray


def judge_setting(setting: Setting, folder: Path) -> dict:
    """Runs the pipeline on one setting and returns a row of metrics."""
    start = time.perf_counter()
    run = run_stages(setting, folder)
    seconds = time.perf_counter() - start
    cues = in_one_order(run.read("cues"))
    return _row(setting, OURS, _our_answer(setting, cues), seconds) | _costs(run, cues)


def ask_peers(setting: Setting) -> list[dict]:
    """Returns one row of metrics per peer on the same setting."""
    rows, evidence = [], replace(setting.evidence, region_probs=setting.region_probs())
    for name, peer in PEERS.items():
        start = time.perf_counter()
        found = peer(evidence, np.random.default_rng([int(setting.facts["seed"]), 99]))
        answer = Answer(found.cue, found.label, found.reported, found.region)
        rows.append(_row(setting, name, answer, time.perf_counter() - start))
    return rows


def run_stages(setting: Setting, folder: Path) -> Run:
    """Writes the tables of a setting and runs the product's own stages from associate to rank."""
    run = Run.create(folder, make_config(setting.config), fresh=True)
    for table, frame in setting.tables.items():
        run.write(table, frame, shard=0, fingerprint="given")
    for name in ("associate", "ablate", "rank"):
        for part in plan(run, STAGES[name]):
            work(run, STAGES[name], part)
    return run


def _our_answer(setting: Setting, cues: pl.DataFrame) -> Answer:
    place = {cue_id: index for index, cue_id in enumerate(setting.cue_ids)}
    classes = list(setting.config.get("model", {}).get("classes") or setting.facts["classes"])
    return Answer(
        cue=np.array([place[cue_id] for cue_id in cues["cue_id"]], np.int64),
        label=np.array([classes.index(label) for label in cues["label"]], np.int64),
        reported=(cues["verdict"] == "spurious").to_numpy(),
        region=_top_regions(setting, cues),
    )


def _costs(run: Run, cues: pl.DataFrame) -> dict:
    """Returns the forwards that were made, each counted once, and what stands among the first ten."""
    spurious = cues.filter(pl.col("verdict") == "spurious").head(TOP)
    return {
        "forwards": int(run.read("effects", columns=["n_forwards"])["n_forwards"].sum()),
        "saved": int(cues["n_forwards_saved"].sum()),
        "top": [f"{row['label']}: {row['phrase']}" for row in spurious.iter_rows(named=True)],
    }


def in_one_order(cues: pl.DataFrame) -> pl.DataFrame:
    """Orders the cues of all classes: as in a class, by verdict, then cues that speak for it, then score."""
    from discovery.schema import VERDICTS

    place = pl.col("verdict").replace_strict(VERDICTS, range(len(VERDICTS)))
    return cues.sort(place, (pl.col("effect") < 0).fill_null(value=True), -pl.col("score"), "p_used", nulls_last=True)


def _top_regions(setting: Setting, cues: pl.DataFrame) -> np.ndarray:
    """Returns the ten audited regions that the best-ranked cues hold, those with the highest score first."""
    evidence, picked = setting.evidence, []
    for cue_id in dict.fromkeys(cues["cue_id"]):
        cue = setting.cue_ids.index(cue_id)
        members = np.flatnonzero(evidence.cue_of_region == cue)
        score = evidence.cue_score[cue, evidence.image[members]]
        picked += members[np.argsort(-score, kind="stable")].tolist()
        if len(picked) >= TOP:
            break
    return np.array((picked + [-1] * TOP)[:TOP])


def _row(setting: Setting, method: str, answer: Answer, seconds: float) -> dict:
    held = answer.region[answer.region >= 0]
    planted = setting.planted_region[held].sum() if len(setting.planted_region) else 0
    entries = zip(answer.label[answer.reported].tolist(), answer.cue[answer.reported].tolist(), strict=True)
    reported = [setting.role[label][cue] if cue >= 0 else "" for label, cue in entries]
    return {
        "name": setting.name,
        **setting.facts,
        "method": method,
        "targets": [_target(answer, target) for target in setting.targets],
        "p10": float(planted) / TOP,
        "n_reported": int(answer.reported.sum()),
        "n_nothing": reported.count(""),
        "decoy": "decoy" in reported,
        "unused": "unused" in reported,
        "seconds": seconds,
    }


def _target(answer: Answer, target: Target) -> dict:
    """Returns where a planted cue stands among the entries about its class; among all, where it has none there."""
    about = answer.label == target.label
    hits = [cue in target.cues for cue in answer.cue[about].tolist()]
    if True not in hits:
        hits = [cue in target.cues for cue in answer.cue.tolist()]
    place = hits.index(True) + 1 if True in hits else None
    reported = set(answer.cue[answer.reported].tolist())
    return {
        **{"kind": target.kind, "tau": target.tau, "found": bool(reported & target.cues)},
        **{"hit1": place == 1, "hit5": bool(place and place <= 5), "rr": 1 / place if place else 0.0},
    }


def presences_of(cues: list[dict], shown: np.ndarray, sample_ids: list[str], regions: dict) -> pl.DataFrame:
    """Builds the table `presences`.

    Args:
        cues: per candidate cue_id, phrase, kind, source.
        shown: (q, n) float scores, NaN where absent.
        sample_ids: of the n photos.
        regions: (candidate, photo) → region ids.
    """
    index, photo = np.nonzero(~np.isnan(shown))
    named = pl.DataFrame(cues)[index]
    columns = {
        "sample_id": np.array(sample_ids)[photo],
        "labels": pl.Series([[]] * len(index), dtype=pl.List(pl.String)),
        "score": shown[index, photo],
        "region_ids": [regions[key] for key in zip(index.tolist(), photo.tolist(), strict=True)],
    }
    frame = named.with_columns(phrases=pl.concat_list("phrase"), **{k: pl.Series(v) for k, v in columns.items()})
    return frame.with_columns(threshold=pl.lit(None, pl.Float32)).select(frame_of("presences", []).columns)
