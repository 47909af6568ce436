"""What a data set is to the rest of the system: three sources of batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch


@dataclass(frozen=True)
class Batch:
    """Inputs of a model, each [B, …], and the target [B, …], or None where there is none."""

    inputs: tuple[torch.Tensor, ...]
    target: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def to(self, device: torch.device | str) -> Batch:
        target = None if self.target is None else self.target.to(device, non_blocking=True)
        return Batch(tuple(tensor.to(device, non_blocking=True) for tensor in self.inputs), target)


@runtime_checkable
class Source(Protocol):
    """One split."""

    def __len__(self) -> int:
        """Number of examples."""

    def batch_count(self, batch_size: int, world: int = 1) -> int:
        """How many batches `batches` yields on each of `world` ranks."""

    def batches(self, batch_size: int, *, seed: int | None = None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """One pass.

        With a seed (training): order and augmentation are drawn from it, and every rank gets as many batches of as
        many examples as any other; at most `world` − 1 examples of the pass are left out for that.
        Without (evaluation): original order, no augmentation, every example on exactly one rank.
        """

    def example(self) -> Batch:
        """One small batch, in order, no augmentation."""

    def digest(self) -> str:
        """Sixteen hexadecimal digits of the content."""


@dataclass(frozen=True)
class Splits:
    """A data set. `digest` is that of the training data; `classes` is None where the target is no class number.

    `validation` chooses; `test` is looked at once per reported figure, and is None where the user has given none.
    """

    train: Source
    validation: Source
    test: Source | None
    name: str
    digest: str
    classes: int | None = None
