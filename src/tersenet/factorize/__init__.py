"""Layers as products of smaller ones."""

from tersenet.factorize.formulas import break_even, cp_compression, svd_compression, tucker_compression
from tersenet.factorize.low_rank import LowRank

__all__ = ["LowRank", "break_even", "cp_compression", "svd_compression", "tucker_compression"]
