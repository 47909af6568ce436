"""Some examples of a split, as a split."""

from __future__ import annotations

import torch
from torch.utils.data import Subset

from tersenet.core.errors import DataError
from tersenet.data.source import Source
from tersenet.data.streams import DatasetSource
from tersenet.data.tensors import TensorSource


def part_of(source: Source, places: torch.Tensor) -> Source:
    """The examples at `places` [n] of `source`, in that order. Raises DataError for a loader, which has an order of its
    own."""
    if isinstance(source, TensorSource):
        target = None if source.target is None else source.target[places]
        return TensorSource([tensor[places] for tensor in source.inputs], target, source.prepare)
    if isinstance(source, DatasetSource):
        return DatasetSource(Subset(source.dataset, places.tolist()), source.where, source.prepare, source.workers)
    raise DataError("single examples cannot be picked out of a loader; give the data as tensors or as a dataset")
