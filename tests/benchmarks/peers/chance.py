"""Evidence → a random order: what any method must beat."""

import numpy as np

from .interface import TOP_REGIONS, Evidence, Ranking, every_pair, pad_regions, rank_findings


def chance(evidence: Evidence, rng: np.random.Generator) -> Ranking:
    """Ranks pairs of cue and class at random, and draws its ten regions from all regions.

    Reports: its top five, as every method without a rule of its own.
    Trap: with few candidates five random reports hit the planted cue often; read hit@5 beside this one.
    """
    ranking = rank_findings(evidence, every_pair(rng.random((len(evidence.cue_words), evidence.n_classes))), rng)
    regions = rng.permutation(len(evidence.image))[:TOP_REGIONS].tolist()
    return Ranking(ranking.cue, ranking.label, ranking.score, ranking.reported, pad_regions(regions))
