"""The contract of the house: every table as a pyarrow schema, and the conventions that hold in all of them.

Conventions
    boxes     absolute pixels, `xyxy`, in the original image after its EXIF rotation; null for a whole-image cue
    masks     run lengths, row-major (`regions.encode_rle`); one may be coarser than its image and is stretched over it
    effect    what the cue adds to the probability of the class in question, in [-1, 1]: `prob_before - prob_after` for
              a removal, `prob_after - prob_before` for a paste-in; positive when the cue helps the class
    gap       with the cue minus without it, signed
    score     higher is more spurious
    logit     natural log-odds of a probability, clipped at `stats.PROB_FLOOR`
    audit     True for samples whose predictions are evidence; False for those the probe was fitted on
"""

from typing import Literal, get_args

import pyarrow as pa

SCHEMA_VERSION = 1

Kind = Literal["object", "background", "text", "border", "colour", "lighting", "texture", "quality"]
KINDS: tuple[str, ...] = get_args(Kind)
WHOLE_IMAGE_KINDS = frozenset({"colour", "lighting", "quality"})
"""Kinds that have no place of their own: removed by recolouring, relighting or sharpening the whole image."""

Verdict = Literal[
    "spurious",
    "core",
    "explained by another cue",
    "used, not tied here",
    "tied, not used",
    "gap, not used",
    "not enough data",
    "no evidence",
]
VERDICTS: tuple[str, ...] = get_args(Verdict)


def _table(key: str, **columns: pa.DataType | pa.Field) -> pa.Schema:
    """Returns a schema whose key columns (comma separated) may not be null."""
    keys = key.split(",")
    fields = [pa.field(name, kind, nullable=name not in keys) for name, kind in columns.items()]
    return pa.schema(fields, metadata={"key": key})


_TEXT, _BOOL, _INT, _REAL, _WIDE = pa.string(), pa.bool_(), pa.int32(), pa.float32(), pa.float64()
_VECTOR = pa.list_(pa.float32())

TABLES: dict[str, pa.Schema] = {
    "samples": _table(
        "sample_id",
        sample_id=_TEXT,
        uri=_TEXT,
        split=_TEXT,
        label=_TEXT,
        audit=_BOOL,
        width_px=_INT,
        height_px=_INT,
        object_x0=_REAL,
        object_y0=_REAL,
        object_x1=_REAL,
        object_y1=_REAL,
    ),
    "heads": _table("class_name", class_name=_TEXT, intercept=_WIDE, coef=pa.list_(pa.float64())),
    "predictions": _table(
        "sample_id",
        sample_id=_TEXT,
        predicted=_TEXT,
        probs=_VECTOR,
        prob_label=_REAL,
        correct=_BOOL,
    ),
    "attributes": _table(
        "attribute_id,label",
        attribute_id=_TEXT,
        label=_TEXT,
        phrase=_TEXT,
        kind=_TEXT,
        source=_TEXT,
        rationale=_TEXT,
        model=_TEXT,
        prompt_hash=_TEXT,
        exists_without=_BOOL,
        is_part=_BOOL,
        nearly_always=_BOOL,
        implies=_BOOL,
    ),
    "regions": _table(
        "region_id",
        region_id=_TEXT,
        sample_id=_TEXT,
        attribute_id=_TEXT,
        detector=_TEXT,
        x0=_REAL,
        y0=_REAL,
        x1=_REAL,
        y1=_REAL,
        score=_REAL,
        area_frac=_REAL,
        mask_rle=pa.binary(),
    ),
    "embeddings": _table("region_id", region_id=_TEXT, embedding=_VECTOR, norm=_REAL),
    "clusters": _table(
        "region_id",
        region_id=_TEXT,
        cluster_id=_INT,
        distance=_REAL,
        phrase=_TEXT,
        kind=_TEXT,
    ),
    "presences": _table(
        "cue_id,sample_id",
        cue_id=_TEXT,
        sample_id=_TEXT,
        phrase=_TEXT,
        kind=_TEXT,
        source=_TEXT,
        labels=pa.list_(pa.string()),
        phrases=pa.list_(pa.string()),
        score=_REAL,
        threshold=_REAL,
        region_ids=pa.list_(pa.string()),
    ),
    "associations": _table(
        "label,cue_id",
        label=_TEXT,
        cue_id=_TEXT,
        phrase=_TEXT,
        kind=_TEXT,
        source=_TEXT,
        core_reason=_TEXT,
        n_with=_INT,
        n_without=_INT,
        prevalence=_REAL,
        prevalence_rest=_REAL,
        bias_z=_REAL,
        cramers_v=_REAL,
        bias_p=_WIDE,
        n_audit_with=_INT,
        n_audit_without=_INT,
        accuracy_with=_REAL,
        accuracy_without=_REAL,
        gap=_REAL,
        gap_low=_REAL,
        gap_high=_REAL,
        gap_p=_WIDE,
        gap_p_maxt=_WIDE,
        gap_adjusted=_REAL,
        gap_adjusted_low=_REAL,
        gap_adjusted_high=_REAL,
        gap_adjusted_p=_WIDE,
        k_gap=_REAL,
        detectable_gap=_REAL,
        hallucination_gap=_REAL,
        hallucination_low=_REAL,
        hallucination_high=_REAL,
        hallucination_p=_WIDE,
    ),
    "effects": _table(
        "label,cue_id,sample_id,intervention",
        label=_TEXT,
        cue_id=_TEXT,
        sample_id=_TEXT,
        intervention=_TEXT,
        way=_TEXT,
        look=_INT,
        level_share=_REAL,
        n_forwards=_INT,
        source_id=_TEXT,
        area_frac=_REAL,
        prob_before=_REAL,
        prob_after=_REAL,
        prob_control=_REAL,
        effect=_REAL,
        effect_control=_REAL,
        logit_effect=_REAL,
        logit_effect_control=_REAL,
        flipped=_BOOL,
        object_overlap=_REAL,
        sharp=_BOOL,
        covered_by=pa.list_(pa.string()),
    ),
    "cues": _table(
        "label,cue_id",
        label=_TEXT,
        cue_id=_TEXT,
        phrase=_TEXT,
        kind=_TEXT,
        source=_TEXT,
        rank=_INT,
        verdict=_TEXT,
        reason=_TEXT,
        score=_REAL,
        effect=_REAL,
        effect_low=_REAL,
        effect_high=_REAL,
        logit_effect=_REAL,
        logit_low=_REAL,
        logit_high=_REAL,
        n_ablated=_INT,
        n_flipped=_INT,
        fills_agree=_BOOL,
        removal_effect=_REAL,
        removal_low=_REAL,
        removal_high=_REAL,
        removal_p=_WIDE,
        removal_q=_WIDE,
        n_pasted=_INT,
        paste_effect=_REAL,
        paste_low=_REAL,
        paste_high=_REAL,
        paste_p=_WIDE,
        paste_q=_WIDE,
        p_used=_WIDE,
        p_tied=_WIDE,
        q_value=_WIDE,
        explained_by=_TEXT,
        n_forwards=_INT,
        n_forwards_saved=_INT,
        object_overlap=_REAL,
        n_with=_INT,
        n_without=_INT,
        prevalence=_REAL,
        prevalence_rest=_REAL,
        cramers_v=_REAL,
        gap=_REAL,
        gap_low=_REAL,
        gap_high=_REAL,
        gap_adjusted=_REAL,
        gap_adjusted_low=_REAL,
        gap_adjusted_high=_REAL,
        gap_p_maxt=_WIDE,
        n_audit_with=_INT,
        n_audit_without=_INT,
        detectable_gap=_REAL,
        hallucination_gap=_REAL,
    ),
    "reports": _table("file", file=_TEXT, bytes=pa.int64()),
    "groups": _table(
        "sample_id,cue_id",
        sample_id=_TEXT,
        cue_id=_TEXT,
        split=_TEXT,
        label=_TEXT,
        phrase=_TEXT,
        cue_present=_BOOL,
        score=_REAL,
        group=_TEXT,
        weight=_REAL,
    ),
}
