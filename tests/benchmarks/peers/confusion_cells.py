"""Evidence → cues that set the largest cell of errors apart: the baseline that slice methods must beat."""

import numpy as np

from .interface import Evidence, Finding, Ranking, rank_findings
from .slices import enrichment


def confusion_cells(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Ranks cues by how differently the largest off-diagonal confusion cell shows them than the rest of its class.

    A cue that the cell shows more often points to the class predicted there, one that it lacks to the true class.
    Reports: its top five, having no rule of its own.
    Trap: one cell alone; what shows in other errors, or helps without causing errors, is never seen.
    """
    true, wrong = largest_cell(evidence)
    inside = (evidence.label == true) & (evidence.predicted == wrong)
    more = enrichment(evidence.cue_present, inside.astype(float), evidence.label == true)
    label = np.where(more >= 0, wrong, true)
    return rank_findings(evidence, Finding(np.arange(len(more)), label, np.abs(more)), rng)


def largest_cell(evidence: Evidence) -> tuple[int, int]:
    """Returns true and predicted class of the largest cell of errors; the first one where there are no errors."""
    counts = np.zeros((evidence.n_classes, evidence.n_classes), np.int64)
    np.add.at(counts, (evidence.label, evidence.predicted), 1)
    np.fill_diagonal(counts, -1)
    true, wrong = np.unravel_index(counts.argmax(), counts.shape)
    return int(true), int(wrong)
