"""Predictions + presences → `associations`: the observational evidence, per class and cue."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse

from discovery.backends.detector import Phrase
from discovery.backends.text import load_text
from discovery.config import AssociateConfig
from discovery.run import Run, Stage, frame_of
from discovery.stats import NOTHING, Bias, Estimate, detectable_gap, gap, presence_bias, table_p
from discovery.vocabulary import core_reasons, read_vocabulary

CUE = ("cue_id", "phrase", "kind", "source")


@dataclass(frozen=True)
class Photos:
    """What is known of n photos, in the order of the columns of the presences.

    Attributes:
        label: (n,) str.
        tied: (n,) bool, those in which the tie of cue and class is measured (the training split).
        audit: (n,) bool, those with a prediction.
        predicted: (n,) str, empty where not audited.
    """

    label: np.ndarray
    tied: np.ndarray
    audit: np.ndarray
    predicted: np.ndarray


def associate(shown: np.ndarray, photos: Photos, label: str, config: AssociateConfig) -> dict[str, float]:
    """Measures one cue against one class.

    Args:
        shown: (n,) bool, presence of the cue.
        photos: labels and predictions of the same photos.
        label: the class.
        config: confidence and power of what is stated.

    Returns:
        The numbers of one row of `associations`.
    """
    own = photos.label == label
    tied = photos.tied
    bias = presence_bias(*_counts(shown, own & tied), *_counts(shown, ~own & tied))
    right = photos.predicted == photos.label
    called = photos.predicted == label
    within = _contrast(shown, right, own & photos.audit, config.confidence)
    across = _contrast(shown, called, ~own & photos.audit, config.confidence)
    return {
        **_support(shown, own, photos),
        **_bias_columns(bias),
        **within.columns("gap"),
        "accuracy_with": within.share_with,
        "accuracy_without": within.share_without,
        "detectable_gap": detectable_gap(
            within.n_with, within.n_without, within.share, 1 - config.confidence, config.power
        ),
        **across.columns("hallucination"),
    }


@dataclass(frozen=True)
class _Contrast:
    """A share of hits with the cue against without it."""

    n_with: int
    n_without: int
    share: float
    share_with: float
    share_without: float
    gap: Estimate
    p: float

    def columns(self, name: str) -> dict[str, float]:
        value = name if name == "gap" else f"{name}_gap"
        return {value: self.gap.value, f"{name}_low": self.gap.low, f"{name}_high": self.gap.high, f"{name}_p": self.p}


def _contrast(shown: np.ndarray, hit: np.ndarray, among: np.ndarray, confidence: float) -> _Contrast:
    n1, n0 = int((shown & among).sum()), int((~shown & among).sum())
    k1, k0 = int((hit & shown & among).sum()), int((hit & ~shown & among).sum())
    share = (k1 + k0) / max(n1 + n0, 1)
    found = gap(k1, n1, k0, n0, confidence) if n1 and n0 else NOTHING
    p = table_p(np.array([[k1, n1 - k1], [k0, n0 - k0]])) if n1 and n0 else 1.0
    return _Contrast(n1, n0, share, k1 / n1 if n1 else np.nan, k0 / n0 if n0 else np.nan, found, p)


def _counts(shown: np.ndarray, among: np.ndarray) -> tuple[int, int]:
    return int((shown & among).sum()), int(among.sum())


def _support(shown: np.ndarray, own: np.ndarray, photos: Photos) -> dict[str, float]:
    with_cue, n_own = _counts(shown, own & photos.tied)
    rest_with, n_rest = _counts(shown, ~own & photos.tied)
    return {
        "n_with": with_cue,
        "n_without": n_own - with_cue,
        "prevalence": with_cue / max(n_own, 1),
        "prevalence_rest": rest_with / max(n_rest, 1),
        "n_audit_with": int((shown & own & photos.audit).sum()),
        "n_audit_without": int((~shown & own & photos.audit).sum()),
    }


def _bias_columns(bias: Bias) -> dict[str, float]:
    return {"bias_z": bias.z, "cramers_v": bias.cramers_v, "bias_p": bias.p}


def _work(run: Run, _: int | None) -> pl.DataFrame:
    samples = run.read("samples", columns=["sample_id", "split", "label", "audit"])
    samples = samples.join(
        run.read("predictions", columns=["sample_id", "predicted"]), on="sample_id", how="left", maintain_order="left"
    )
    photos = _photos(samples, run.config.dataset.fit_split)
    presences = run.read("presences", columns=[*CUE, "labels", "phrases", "sample_id"])
    cues = presences.unique("cue_id", maintain_order=True)
    matrix = _matrix(presences, cues["cue_id"], samples["sample_id"])
    labels = sorted(set(photos.label))
    core = _core(run, cues, labels)
    rows = []
    for index, cue in enumerate(cues.iter_rows(named=True)):
        shown = matrix[index].toarray().ravel()
        for label in labels:
            if cue["labels"] and label not in cue["labels"]:
                continue
            named = {
                "label": label,
                **{name: cue[name] for name in CUE},
                "core_reason": core.get((label, cue["cue_id"])),
            }
            rows.append(named | associate(shown, photos, label, run.config.associate))
    return frame_of("associations", rows + _unseen(run, cues))


def _photos(samples: pl.DataFrame, fit_split: str) -> Photos:
    in_split = (samples["split"] == fit_split).to_numpy()
    return Photos(
        label=samples["label"].to_numpy().astype(str),
        tied=in_split if in_split.any() else np.ones(len(samples), bool),
        audit=samples["predicted"].is_not_null().to_numpy(),
        predicted=samples["predicted"].fill_null("").to_numpy().astype(str),
    )


def _matrix(presences: pl.DataFrame, cue_ids: pl.Series, sample_ids: pl.Series) -> sparse.csr_matrix:
    row = dict(zip(cue_ids, range(len(cue_ids)), strict=True))
    column = dict(zip(sample_ids, range(len(sample_ids)), strict=True))
    rows = np.array([row[c] for c in presences["cue_id"]], np.int64)
    columns = np.array([column[s] for s in presences["sample_id"]], np.int64)
    return sparse.csr_matrix((np.ones(len(rows), bool), (rows, columns)), (len(cue_ids), len(sample_ids)))


def _core(run: Run, cues: pl.DataFrame, labels: list[str]) -> dict[tuple[str, str], str]:
    """Returns why a cue is a class itself or a part of it, for those pairs where it is."""
    phrases = {Phrase(text, kind): cue for cue, text, kind in cues.select("cue_id", "phrase", "kind").iter_rows()}
    vocabulary, text = read_vocabulary(), load_text("minilm", run.config.compute)
    return {
        (label, phrases[phrase]): reason
        for label in labels
        for phrase, reason in core_reasons(label, list(phrases), vocabulary, text.encode).items()
    }


def _unseen(run: Run, cues: pl.DataFrame) -> list[dict]:
    """Returns rows for the user's or a model's own phrases that no photo shows; the vocabulary's are not news."""
    asked = run.read("attributes").filter(~pl.col("source").is_in(["vocabulary"]))
    known = {phrase for phrases in cues["phrases"] for phrase in phrases}
    rows = []
    for row in asked.iter_rows(named=True):
        if row["phrase"] not in known:
            counts = dict.fromkeys(("n_with", "n_without", "n_audit_with", "n_audit_without"), 0)
            named = {name: row[name] for name in ("label", "phrase", "kind")}
            rows.append({**named, "cue_id": row["attribute_id"], "source": "attribute", **counts})
    return rows


STAGE = Stage(
    name="associate",
    table="associations",
    inputs=("samples", "predictions", "attributes", "presences"),
    config=lambda config: (config.associate, config.dataset.fit_split),
    work=_work,
)
