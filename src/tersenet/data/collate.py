"""What a user's loader yields → `Batch`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tersenet.core.errors import DataError
from tersenet.data.source import Batch

TARGETS = ("label", "labels", "target")
ACCEPTED = (
    "a batch must be (x, y), (x1, x2, …, y) with the target last, ((x1, x2), y), a tensor without target, or a mapping "
    "whose target is called label, labels or target"
)


def to_batch(value: Any, where: str) -> Batch:
    """Raises DataError, which says what is accepted, if `value` is none of it."""
    if isinstance(value, Batch):
        return value
    if isinstance(value, Mapping):
        return _from_mapping(value, where)
    if isinstance(value, tuple | list) and len(value) > 1:
        return _checked(Batch(_flat(value[:-1], where), as_tensor(value[-1], where)), where)
    return _checked(Batch(_flat([value], where)), where)


def as_tensor(value: Any, where: str) -> torch.Tensor:
    """A tensor from a tensor or an array of numbers."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value))
    raise DataError(f"{where}: found {type(value).__name__} where a tensor should be; {ACCEPTED}")


def _from_mapping(value: Mapping[str, Any], where: str) -> Batch:
    names = [name for name in TARGETS if name in value]
    if len(names) != 1:
        found = f"has {' and '.join(names)}" if names else f"has only {', '.join(map(str, value))}"
        raise DataError(f"{where}: a batch {found}; {ACCEPTED}")
    inputs = _flat([entry for name, entry in value.items() if name != names[0]], where)
    return _checked(Batch(inputs, as_tensor(value[names[0]], where)), where)


def _flat(values: Any, where: str) -> tuple[torch.Tensor, ...]:
    """All tensors in nested tuples, lists and mappings, in order."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, tuple | list):
            found += _flat(value, where)
        elif isinstance(value, Mapping):
            found += _flat(value.values(), where)
        else:
            found.append(as_tensor(value, where))
    return tuple(found)


def _checked(batch: Batch, where: str) -> Batch:
    if not batch.inputs:
        raise DataError(f"{where}: a batch has no input; {ACCEPTED}")
    lengths = [0 if tensor.ndim == 0 else len(tensor) for tensor in batch.inputs]
    if batch.target is not None and batch.target.ndim:
        lengths.append(len(batch.target))
    if len(set(lengths)) > 1:
        raise DataError(f"{where}: inputs and target of a batch have different lengths: {', '.join(map(str, lengths))}")
    return batch
