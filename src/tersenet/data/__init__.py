"""Data sets as splits of batches."""

from tersenet.data.load import load_data
from tersenet.data.source import Batch, Source, Splits

__all__ = ["Batch", "Source", "Splits", "load_data"]
