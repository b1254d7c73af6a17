"""Evidence of one audited set → the ranking of each peer: the methods that the benchmark compares with.

Written from the formulas in the papers; every peer says in its docstring what it reports and what trap lies in it.
"""

from .b2t import b2t
from .chance import chance
from .cleanlab_property import cleanlab_property
from .confusion_cells import confusion_cells
from .domino import domino
from .interface import Evidence, Ranking
from .kmedoids import ravl_clusters
from .ravl import ravl
from .spuriosity_rankings import spuriosity_rankings
from .spurlens import spurlens

PEERS = {
    "random": chance,
    "confusion_cells": confusion_cells,
    "spurlens": spurlens,
    "ravl": ravl,
    "domino": domino,
    "cleanlab_property": cleanlab_property,
    "b2t": b2t,
    "spuriosity_rankings": spuriosity_rankings,
}

__all__ = ["PEERS", "Evidence", "Ranking", "ravl_clusters"]
