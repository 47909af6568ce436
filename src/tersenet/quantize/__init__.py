"""Fewer values for weights."""

from tersenet.quantize.binary import Binarization
from tersenet.quantize.share import WeightSharing
from tersenet.quantize.ternary import Ternarization

__all__ = ["Binarization", "Ternarization", "WeightSharing"]
