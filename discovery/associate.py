"""Predictions + presences → `associations`: the observational evidence, per class and cue."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse

from discovery.adjusted import Setting, adjusted_gaps
from discovery.backends.detector import Phrase
from discovery.backends.text import load_text
from discovery.config import AssociateConfig
from discovery.run import Run, Stage, frame_of
from discovery.stats import Estimate, detectable_gap, extreme_gap, gap, max_t_p, presence_bias, table_p
from discovery.vocabulary import core_reasons, read_vocabulary

CUE = ("cue_id", "phrase", "kind", "source")
ADJUSTED = ("gap_adjusted", "gap_adjusted_low", "gap_adjusted_high", "gap_adjusted_p")


@dataclass(frozen=True)
class Photos:
    """What is known of n photos, in the order of the columns of the presences.

    Attributes:
        label: (n,) str.
        tied: (n,) bool, those in which the tie of cue and class is measured (the training split).
        audit: (n,) bool, those with a prediction.
        predicted: (n,) str, empty where not audited.
        split: (n,) str.
        pixels: (n,) sizes.
    """

    label: np.ndarray
    tied: np.ndarray
    audit: np.ndarray
    predicted: np.ndarray
    split: np.ndarray
    pixels: np.ndarray


def associate(
    shown: sparse.csr_matrix, photos: Photos, label: str, config: AssociateConfig, rng: np.random.Generator
) -> list[dict[str, float | None]]:
    """Measures all cues that are tried in one class: some of the numbers depend on what else was tried there.

    Args:
        shown: (cues, n); a stored entry says that the photo shows the cue, its value is the cue's score there.
        photos: labels and predictions of the same photos.
        label: the class.
        config: confidence, power, permutations, and what a gap is adjusted for.
        rng: of the permutations and the folds.

    Returns:
        For each cue the numbers of its row of `associations`.
    """
    present = sparse.csr_matrix((np.ones(shown.nnz, np.float32), shown.indices, shown.indptr), shown.shape)
    own = photos.label == label
    right = photos.predicted == photos.label
    called = photos.predicted == label
    audited, others = own & photos.audit, ~own & photos.audit
    among = [own & photos.tied, ~own & photos.tied, audited, audited & right, others, others & called]
    columns = np.stack(among, axis=1).astype(np.float64)
    totals = columns.sum(axis=0).astype(int).tolist()
    counts = np.rint(present @ columns).astype(int).tolist()
    within = _within(present[:, audited], shown[:, audited], _setting(photos, audited), config, rng)
    return [_row(with_cue, totals, config) | more for with_cue, more in zip(counts, within, strict=True)]


def _row(with_cue: list[int], totals: list[int], config: AssociateConfig) -> dict[str, float]:
    """Returns what follows from counts alone: six of them among photos with the cue, and the same among all photos."""
    own, rest, audited, right, others, called = with_cue
    n_own, n_rest, n_audited, n_right, n_others, n_called = totals
    bias = presence_bias(own, n_own, rest, n_rest)
    within = _contrast(right, audited, n_right - right, n_audited - audited, config.confidence)
    across = _contrast(called, others, n_called - called, n_others - others, config.confidence)
    share = n_right / max(n_audited, 1)
    return {
        "n_with": own,
        "n_without": n_own - own,
        "prevalence": own / max(n_own, 1),
        "prevalence_rest": rest / max(n_rest, 1),
        "n_audit_with": audited,
        "n_audit_without": n_audited - audited,
        "bias_z": bias.z,
        "cramers_v": bias.cramers_v,
        "bias_p": bias.p,
        **within.columns("gap"),
        "accuracy_with": within.share_with,
        "accuracy_without": within.share_without,
        "detectable_gap": detectable_gap(audited, n_audited - audited, share, 1 - config.confidence, config.power),
        **across.columns("hallucination"),
    }


@dataclass(frozen=True)
class _Contrast:
    """A share of hits with the cue against without it."""

    share_with: float
    share_without: float
    gap: Estimate
    p: float

    def columns(self, name: str) -> dict[str, float]:
        value = name if name == "gap" else f"{name}_gap"
        return {value: self.gap.value, f"{name}_low": self.gap.low, f"{name}_high": self.gap.high, f"{name}_p": self.p}


def _contrast(k1: int, n1: int, k0: int, n0: int, confidence: float) -> _Contrast:
    p = table_p(np.array([[k1, n1 - k1], [k0, n0 - k0]]))
    return _Contrast(k1 / n1 if n1 else np.nan, k0 / n0 if n0 else np.nan, gap(k1, n1, k0, n0, confidence), p)


def _setting(photos: Photos, among: np.ndarray) -> Setting:
    right = photos.predicted[among] == photos.label[among]
    return Setting(right, photos.split[among], photos.pixels[among])


def _within(
    present: sparse.csr_matrix,
    score: sparse.csr_matrix,
    photos: Setting,
    config: AssociateConfig,
    rng: np.random.Generator,
) -> Iterator[dict[str, float | None]]:
    """Yields per cue what needs the class's audited photos one by one: they are the columns of both matrices."""
    with_cue = np.asarray(present.sum(axis=1)).ravel()
    enough = np.minimum(with_cue, present.shape[1] - with_cue) >= config.min_group
    p_maxt = np.full(len(enough), np.nan)
    p_maxt[enough] = max_t_p(present[enough], photos.right, photos.split, config.permutations, rng)
    adjusted = adjusted_gaps(present.toarray() > 0, photos, config, rng)
    for cue, (p, found) in enumerate(zip(p_maxt.tolist(), adjusted, strict=True)):
        columns = (found.value, found.low, found.high, found.p) if found else (None,) * 4
        k_gap = extreme_gap(score[cue].toarray().ravel(), photos.right, config.k_spuriosity)
        yield {
            "gap_p_maxt": None if np.isnan(p) else p,
            **dict(zip(ADJUSTED, columns, strict=True)),
            "k_gap": None if np.isnan(k_gap) else k_gap,
        }


def _work(run: Run, _: int | None) -> pl.DataFrame:
    columns = ["sample_id", "split", "label", "audit", "width_px", "height_px"]
    samples = run.read("samples", columns=columns).join(
        run.read("predictions", columns=["sample_id", "predicted"]), on="sample_id", how="left", maintain_order="left"
    )
    photos = _photos(samples, run.config.dataset.fit_split)
    presences = run.read("presences", columns=[*CUE, "labels", "phrases", "sample_id", "score"])
    cues = presences.unique("cue_id", maintain_order=True)
    shown = _matrix(presences, cues["cue_id"], samples["sample_id"])
    labels = sorted(set(photos.label))
    core = _core(run, cues, labels)
    rows = []
    for label in labels:
        tried = [at for at, wanted in enumerate(cues["labels"].to_list()) if not wanted or label in wanted]
        rng = np.random.default_rng([run.config.seed, zlib.crc32(label.encode())])
        found = associate(shown[np.array(tried, np.int64)], photos, label, run.config.associate, rng)
        for cue, numbers in zip(cues[tried].iter_rows(named=True), found, strict=True):
            named = {name: cue[name] for name in CUE} | {"core_reason": core.get((label, cue["cue_id"]))}
            rows.append({"label": label, **named, **numbers})
    return frame_of("associations", rows + _unseen(run, cues))


def _photos(samples: pl.DataFrame, fit_split: str) -> Photos:
    in_split = (samples["split"] == fit_split).to_numpy()
    return Photos(
        label=samples["label"].to_numpy().astype(str),
        tied=in_split if in_split.any() else np.ones(len(samples), bool),
        audit=samples["predicted"].is_not_null().to_numpy(),
        predicted=samples["predicted"].fill_null("").to_numpy().astype(str),
        split=samples["split"].to_numpy().astype(str),
        pixels=(samples["width_px"].cast(pl.Int64) * samples["height_px"]).to_numpy(),
    )


def _matrix(presences: pl.DataFrame, cue_ids: pl.Series, sample_ids: pl.Series) -> sparse.csr_matrix:
    row = dict(zip(cue_ids, range(len(cue_ids)), strict=True))
    column = dict(zip(sample_ids, range(len(sample_ids)), strict=True))
    rows = np.array([row[c] for c in presences["cue_id"]], np.int64)
    columns = np.array([column[s] for s in presences["sample_id"]], np.int64)
    scores = presences["score"].to_numpy()
    return sparse.csr_matrix((scores, (rows, columns)), (len(cue_ids), len(sample_ids)))


def _core(run: Run, cues: pl.DataFrame, labels: list[str]) -> dict[tuple[str, str], str]:
    """Returns why a cue is a class itself or a part of it, for those pairs where it is: a written list goes first."""
    vocabulary, text = read_vocabulary(), load_text(run.config.propose.text, run.config.compute)
    attributes = run.read("attributes", columns=["label", "phrase", "kind", "model", "is_part"])
    listed = {}
    for label in labels:
        names = names_of(cues, attributes.filter(label=label))
        reasons = core_reasons(label, list(names), vocabulary, text.encode)
        listed |= {(label, cue): reason for phrase, reason in reasons.items() for cue in names[phrase]}
    return judged_parts(cues, attributes) | listed


def names_of(cues: pl.DataFrame, proposed: pl.DataFrame) -> dict[Phrase, list[str]]:
    """Returns phrase → the cues that go by it: their own, and those of their synonyms that were proposed for the class.

    A motor scooter that was merged into a snowmobile is a part of racing still.

    Args:
        cues: cue_id, phrase, kind, phrases.
        proposed: attributes of one class.
    """
    known = dict(proposed.select("phrase", "kind").iter_rows())
    names: dict[Phrase, list[str]] = {}
    for cue, text, kind, others in cues.select("cue_id", "phrase", "kind", "phrases").iter_rows():
        synonyms = [Phrase(other, kind) for other in others or () if known.get(other) == kind]
        for phrase in dict.fromkeys([Phrase(text, kind), *synonyms]):
            names.setdefault(phrase, []).append(cue)
    return names


def judged_parts(cues: pl.DataFrame, attributes: pl.DataFrame) -> dict[tuple[str, str], str]:
    """Returns (label, cue_id) → whose judgement makes it a part of the class.

    A cue counts as one when a language model judges every phrase of it that it was asked about to be one: what it
    takes for a part is never called spurious, so a doubt keeps the cue a suspect.
    """
    judged = (
        cues.select("cue_id", pl.col("phrases").alias("phrase"))
        .explode("phrase")
        .join(attributes.filter(pl.col("is_part").is_not_null()), on="phrase")
        .group_by("label", "cue_id")
        .agg(pl.col("is_part").all(), pl.col("model").first())
        .filter("is_part")
    )
    rows = judged.select("label", "cue_id", "model").iter_rows()
    return {(label, cue): f"so the language model {model} judges" for label, cue, model in rows}


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
    config=lambda config: (config.associate, config.dataset.fit_split, config.propose.text),
    work=_work,
)
