"""Arrays of one audited set → what every method sees (`Evidence`) and what every method answers (`Ranking`)."""

from dataclasses import dataclass, fields

import numpy as np

TOP_REGIONS = 10
TOP_CUES = 5
"""How many findings a method reports that has no rule of its own."""


@dataclass(frozen=True)
class Evidence:
    """What every method sees: the same regions, presences and predictions of the audited images.

    Attributes:
        embeddings: (r, d) float32 unit norm, of regions.
        image: (r,) int64 image of each region.
        region_probs: (r, c) float32 the model's probabilities on the region alone.
        label: (n,) int64.
        probs: (n, c) float32 the model's probabilities on the whole image.
        image_embedding: (n, d') float32, of whole images.
        cue_present: (q, n) bool which image shows which candidate cue.
        cue_score: (q, n) float32 best score of the cue in the image, 0 where absent.
        cue_of_region: (r,) int64 candidate that each region belongs to, -1 for none.
        cue_words: q phrases.
    """

    embeddings: np.ndarray
    image: np.ndarray
    region_probs: np.ndarray
    label: np.ndarray
    probs: np.ndarray
    image_embedding: np.ndarray
    cue_present: np.ndarray
    cue_score: np.ndarray
    cue_of_region: np.ndarray
    cue_words: tuple[str, ...]

    def __post_init__(self) -> None:
        r, n, c, q = len(self.image), len(self.label), self.n_classes, len(self.cue_words)
        leading = {
            "embeddings": (r,),
            "region_probs": (r, c),
            "cue_of_region": (r,),
            "probs": (n, c),
            "image_embedding": (n,),
            "cue_present": (q, n),
            "cue_score": (q, n),
        }
        for name, shape in leading.items():
            got = getattr(self, name).shape
            if got[: len(shape)] != shape:
                raise ValueError(f"{name} must begin with {shape}, got {got}")

    @property
    def n_classes(self) -> int:
        """Classes of the model."""
        return self.probs.shape[1]

    @property
    def predicted(self) -> np.ndarray:
        """(n,) int64 likeliest class of each image."""
        return self.probs.argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool."""
        return self.predicted == self.label


@dataclass(frozen=True)
class Ranking:
    """A method's answer for all classes: candidate cues, best first, and its reported set.

    Attributes:
        cue: (m,) int64 candidates best first; -1 for a finding that is none of them.
        label: (m,) int64 class that each entry is about; a pair of cue and label comes once.
        score: (m,) float64, never rising.
        reported: (m,) bool what the method itself would report as a finding.
        region: (10,) int64 top ten regions, -1 where there are fewer.
    """

    cue: np.ndarray
    label: np.ndarray
    score: np.ndarray
    reported: np.ndarray
    region: np.ndarray

    def __post_init__(self) -> None:
        for field in fields(self):
            expected = (TOP_REGIONS,) if field.name == "region" else self.cue.shape
            if getattr(self, field.name).shape != expected:
                raise ValueError(f"{field.name} must be {expected}, got {getattr(self, field.name).shape}")
        if (np.diff(self.score) > 0).any() or not np.isfinite(self.score).all():
            raise ValueError("score must be finite and never rise")


@dataclass(frozen=True)
class Finding:
    """Entries of a ranking in any order; the attributes are those of `Ranking`."""

    cue: np.ndarray
    label: np.ndarray
    score: np.ndarray
    reported: np.ndarray | None = None


def rank_findings(evidence: Evidence, findings: Finding, rng: np.random.Generator) -> Ranking:
    """Orders findings by score, equal ones at random; without a rule of its own the top five above 0 are reported."""
    order = np.lexsort((rng.random(len(findings.score)), -findings.score))
    score = findings.score[order].astype(np.float64)
    if findings.reported is None:
        reported = (np.arange(len(order)) < TOP_CUES) & (score > 0)
    else:
        reported = findings.reported[order]
    cue = findings.cue[order]
    return Ranking(cue, findings.label[order], score, reported, top_regions(evidence, cue))


def every_pair(score: np.ndarray, reported: np.ndarray | None = None) -> Finding:
    """Lays out (q, c) scores, and which of them are reported, as one entry per cue and class."""
    cue, label = np.indices(score.shape).reshape(2, -1)
    return Finding(cue, label, score.ravel(), None if reported is None else reported.ravel())


def top_regions(evidence: Evidence, cues: np.ndarray) -> np.ndarray:
    """Returns (10,) regions of the cues in their order; within a cue, those in images that score it highest first."""
    found: list[int] = []
    for cue in dict.fromkeys(cues.tolist()):
        if len(found) >= TOP_REGIONS:
            break
        regions = np.flatnonzero(evidence.cue_of_region == cue) if cue >= 0 else np.empty(0, int)
        score = evidence.cue_score[cue, evidence.image[regions]]
        found += regions[np.argsort(-score, kind="stable")].tolist()
    return pad_regions(found)


def pad_regions(regions: list[int]) -> np.ndarray:
    """Returns the first ten regions as (10,) int64, filled up with -1."""
    return np.array((regions + [-1] * TOP_REGIONS)[:TOP_REGIONS], np.int64)
