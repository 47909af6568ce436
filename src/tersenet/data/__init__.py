"""Data sets as splits of batches."""

from tersenet.data.check import check_fits
from tersenet.data.given import as_splits
from tersenet.data.load import load_data
from tersenet.data.source import Batch, Source, Splits

__all__ = ["Batch", "Source", "Splits", "as_splits", "check_fits", "load_data"]
