"""The table that a repair adds: what became of each cue, before and after."""

import pyarrow as pa

from discovery.columns import INT, REAL, TEXT, WIDE, table

FOLLOWING: dict[str, pa.Schema] = {
    "audits": table(
        "label,cue_id",
        label=TEXT,
        cue_id=TEXT,
        phrase=TEXT,
        kind=TEXT,
        role=TEXT,
        outcome=TEXT,
        reason=TEXT,
        way=TEXT,
        n_photos=INT,
        effect_before=REAL,
        effect_before_low=REAL,
        effect_before_high=REAL,
        effect_after=REAL,
        effect_after_low=REAL,
        effect_after_high=REAL,
        change=REAL,
        change_low=REAL,
        change_high=REAL,
        change_p=WIDE,
        change_q=WIDE,
        logit_before=REAL,
        logit_after=REAL,
        removal_before=REAL,
        removal_after=REAL,
        paste_before=REAL,
        paste_after=REAL,
        n_with=INT,
        n_without=INT,
        gap_before=REAL,
        gap_before_low=REAL,
        gap_before_high=REAL,
        gap_after=REAL,
        gap_after_low=REAL,
        gap_after_high=REAL,
        worst_before=REAL,
        worst_after=REAL,
        average_before=REAL,
        average_after=REAL,
    ),
}
