"""Decoded splits, and how they become sources: checked, validation held out, statistics from what is left of train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tersenet.core.errors import DataError
from tersenet.core.recipe import DataSpec
from tersenet.data.prepare import Prepare, statistics
from tersenet.data.source import Splits
from tersenet.data.tensors import TensorSource

CHUNK = 512  # examples turned into float64 at once while statistics are taken; more fall out of the processor cache


@dataclass(frozen=True)
class Decoded:
    """One split in memory: inputs [N, …] each, labels [N, …] or None."""

    inputs: tuple[torch.Tensor, ...]
    target: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def rows(self, start: int, stop: int) -> Decoded:
        return Decoded(
            tuple(x[start:stop] for x in self.inputs), None if self.target is None else self.target[start:stop]
        )


def to_splits(parts: Mapping[str, Decoded], spec: DataSpec, name: str, classes: int | None) -> Splits:
    """`parts` has 'train', and may have 'validation' and 'test'; classes None: as many as there are labels."""
    for split, part in parts.items():
        check(part, f"{name}: {split}", classes)
    if classes is None:
        classes = count_classes(parts)
    train, validation = parts["train"], parts.get("validation")
    if validation is None:
        kept = kept_rows(len(train), spec.validation, name)
        train, validation = train.rows(0, kept), train.rows(kept, len(train))
    prepare = _prepare(train, spec)
    test = parts.get("test")
    source = TensorSource(train.inputs, train.target, prepare)
    plain = tuple(Prepare(item.mean, item.deviation) for item in prepare)
    return Splits(
        train=source,
        validation=TensorSource(validation.inputs, validation.target, plain),
        test=None if test is None else TensorSource(test.inputs, test.target, plain),
        name=name,
        digest=source.digest(),
        classes=classes,
    )


def kept_rows(length: int, validation: float, name: str) -> int:
    """How many rows of train stay when the last ones are held out; `validation` is a count if ≥ 1, else a share."""
    held = round(validation) if validation >= 1 else max(1, round(validation * length))
    if held >= length:
        raise DataError(f"{name}: {held} rows held out for validation leave none of the {length} of train to train on")
    return length - held


def count_classes(parts: Mapping[str, Decoded]) -> int | None:
    """One more than the largest label, if labels are one integer for each example."""
    targets = [part.target for part in parts.values()]
    if not all(target is not None and _is_class(target) for target in targets):
        return None
    return 1 + max(int(target.max()) for target in targets if target is not None)


def check(part: Decoded, where: str, classes: int | None) -> None:
    """Raises DataError if the split is empty, a number is NaN or infinite, or a label lies outside [0, classes)."""
    if len(part) == 0:
        raise DataError(f"{where} is empty")
    for tensor in part.inputs:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            row = int((~tensor.isfinite()).flatten(1).any(1).nonzero()[0]) if tensor.ndim > 1 else 0
            raise DataError(f"{where}: example {row} holds NaN or infinity")
    if part.target is None:
        if classes is not None:
            raise DataError(f"{where} has no labels")
        return
    if classes is not None and not _is_class(part.target):
        raise DataError(f"{where}: labels must be integers, one for each example, not {_spell(part.target)}")
    if _is_class(part.target):
        _check_labels(part.target, where, classes)


def _check_labels(target: torch.Tensor, where: str, classes: int | None) -> None:
    low, high = int(target.min()), int(target.max())
    if low < 0 or (classes is not None and high >= classes):
        row = int(((target < 0) | (target >= (classes or high + 1))).nonzero()[0])
        within = f"in [0, {classes})" if classes is not None else "0 or more"
        raise DataError(f"{where}: label {int(target[row])} of example {row} is out of range; labels must be {within}")


def _is_class(target: torch.Tensor) -> bool:
    return target.ndim == 1 and target.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _spell(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"


def _prepare(train: Decoded, spec: DataSpec) -> tuple[Prepare, ...]:
    def one(tensor: torch.Tensor) -> Prepare:
        numbers = tensor.is_floating_point() or (tensor.dtype == torch.uint8 and tensor.ndim == 4)
        if not spec.normalize or not numbers or tensor.ndim < 2:
            return Prepare(augment=spec.augment)
        mean, deviation = statistics(tensor.split(CHUNK))  # type: ignore[no-untyped-call]
        return Prepare(mean, deviation, spec.augment)

    return tuple(one(tensor) for tensor in train.inputs)
