"""Setting weights to zero: which ones (criterion), compared with which others (scope), and when (schedule)."""

from tersenet.prune.criteria import CRITERIA
from tersenet.prune.groups import Left, Structure, structure
from tersenet.prune.magnitude import MagnitudePruning
from tersenet.prune.regularize import Regularization

__all__ = ["CRITERIA", "Left", "MagnitudePruning", "Regularization", "Structure", "structure"]
