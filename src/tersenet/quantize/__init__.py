"""Fewer values for weights."""

from tersenet.quantize.share import WeightSharing

__all__ = ["WeightSharing"]
