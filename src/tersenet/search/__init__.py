"""What to ask of a model before a recipe is written: how much each of its layers can lose."""

from tersenet.search.sensitivity import scan
from tersenet.search.trial import GRANULARITIES

__all__ = ["GRANULARITIES", "scan"]
