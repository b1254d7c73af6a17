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

from discovery.columns import BOOL as _BOOL
from discovery.columns import INT as _INT
from discovery.columns import REAL as _REAL
from discovery.columns import TEXT as _TEXT
from discovery.columns import VECTOR as _VECTOR
from discovery.columns import WIDE as _WIDE
from discovery.columns import table as _table
from discovery.schema_evidence import EVIDENCE
from discovery.schema_repair import FOLLOWING

SCHEMA_VERSION = 1

Kind = Literal["object", "background", "text", "border", "colour", "lighting", "texture", "quality"]
KINDS: tuple[str, ...] = get_args(Kind)
WHOLE_IMAGE_KINDS = frozenset({"colour", "lighting", "quality"})
"""Kinds that have no place of their own: removed by recolouring, relighting or sharpening the whole image."""
CLASS_ITSELF = "the class itself"
"""`regions.attribute_id` of boxes that a detector drew around what the photo's class is called: no candidate cue."""
OBJECT_BOX = ("object_x0", "object_y0", "object_x1", "object_y1")
"""Columns of `samples`: the object's box, where the data give one."""

Verdict = Literal[
    "spurious",
    "core",
    "explained by another cue",
    "speaks for another class",
    "used, not tied here",
    "tied, not used",
    "gap, not used",
    "not enough data",
    "no evidence",
]
VERDICTS: tuple[str, ...] = get_args(Verdict)


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
        **dict.fromkeys(OBJECT_BOX, _REAL),
    ),
    "heads": _table("class_name", class_name=_TEXT, intercept=_WIDE, coef=pa.list_(_WIDE), gate=pa.list_(_WIDE)),
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
        agreement=_REAL,
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
    **EVIDENCE,
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
    "answers": _table(
        "sample_id,question_id,wording,order",
        sample_id=_TEXT,
        question_id=_TEXT,
        wording=_TEXT,
        order=_INT,
        probe=_TEXT,
        label=_TEXT,
        chosen=_TEXT,
        prob=_WIDE,
        prob_against=_WIDE,
        measured=_BOOL,
        text=_TEXT,
    ),
    "perception": _table(
        "label,cue_id,probe,wording",
        label=_TEXT,
        cue_id=_TEXT,
        probe=_TEXT,
        wording=_TEXT,
        phrase=_TEXT,
        n_with=_INT,
        n_without=_INT,
        rate_with=_REAL,
        rate_without=_REAL,
        gap=_REAL,
        gap_low=_REAL,
        gap_high=_REAL,
        gap_p=_WIDE,
        gap_q=_WIDE,
        logit_with=_REAL,
        logit_without=_REAL,
        logit_gap=_REAL,
        logit_low=_REAL,
        logit_high=_REAL,
        logit_p=_WIDE,
        logit_q=_WIDE,
        n_unclear_with=_INT,
        n_unclear_without=_INT,
        n_answers=_INT,
        n_answers_unclear=_INT,
        consistency=_REAL,
    ),
    **FOLLOWING,
}
