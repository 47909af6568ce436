"""Setting weights to zero: which ones (criterion), compared with which others (scope), and when (schedule)."""

from tersenet.prune.criteria import CRITERIA
from tersenet.prune.magnitude import MagnitudePruning

__all__ = ["CRITERIA", "MagnitudePruning"]
