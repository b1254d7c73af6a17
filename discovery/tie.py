"""Association of a cue with a class → the stronger of its two ties: by presence, or by a gap in accuracy."""

import numpy as np


def tie_of(row: dict) -> dict[str, object]:
    """Returns the stronger of the two ties; its p-value is doubled for having looked at both.

    The gap's is that of max-T: within splits, because a cue and the harder split may only go together.

    Args:
        row: of `associations`.

    Returns:
        `tie` ("bias" or "gap"), `p_tied`, and `tie_sign`: 1 where the class has more of the cue or is right more often
        with it, −1 the other way round, 0 for none.
    """
    bias_p, gap_p = (1.0 if row[name] is None else row[name] for name in ("bias_p", "gap_p_maxt"))
    if bias_p <= gap_p:
        return {"tie": "bias", "p_tied": min(1.0, 2 * bias_p), "tie_sign": np.sign(row["bias_z"] or 0)}
    # Across splits the raw gap may point the other way (Simpson's paradox).
    gap = row["gap"] if row["gap_adjusted"] is None else row["gap_adjusted"]
    return {"tie": "gap", "p_tied": min(1.0, 2 * gap_p), "tie_sign": np.sign(gap or 0)}
