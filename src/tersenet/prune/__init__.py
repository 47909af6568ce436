"""Setting weights to zero: which ones (criterion), how many together (granularity), compared with which others (scope),
and when (schedule)."""

from tersenet.prune.criteria import CRITERIA, Criterion
from tersenet.prune.depth import DepthPruning
from tersenet.prune.evidence import Evidence
from tersenet.prune.granularity import Granularity, per_filter
from tersenet.prune.groups import Left, Structure, structure
from tersenet.prune.magnitude import MagnitudePruning
from tersenet.prune.reconstruct import ReconstructPruning
from tersenet.prune.regularize import Regularization
from tersenet.prune.scoring import Scoring
from tersenet.prune.statistics import Statistics

__all__ = [
    "CRITERIA",
    "Criterion",
    "DepthPruning",
    "Evidence",
    "Granularity",
    "Left",
    "MagnitudePruning",
    "ReconstructPruning",
    "Regularization",
    "Scoring",
    "Statistics",
    "Structure",
    "per_filter",
    "structure",
]
