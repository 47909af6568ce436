"""A split held in memory as tensors and batched there: no Python per example."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch

from tersenet.core.seeds import generator
from tersenet.data.order import batch_count, batch_indices
from tersenet.data.prepare import Prepare
from tersenet.data.source import Batch

EXAMPLE = 2  # examples in a small batch: enough for a batch axis that cannot be mistaken for another


class TensorSource:
    """inputs: tensors [N, …], stored as they were decoded (uint8 images stay uint8); target: [N, …] or None.

    prepare: for each input, what turns it into what the model sees.
    """

    def __init__(
        self, inputs: Sequence[torch.Tensor], target: torch.Tensor | None, prepare: Sequence[Prepare] = ()
    ) -> None:
        self.inputs = tuple(inputs)
        self.target = target
        self.prepare = tuple(prepare) or (Prepare(),) * len(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batch_count(self, batch_size: int, world: int = 1) -> int:
        return batch_count(len(self), batch_size, world)

    def batches(self, batch_size: int, *, seed: int | None = None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        draws = None if seed is None else generator(seed, "augment", rank)
        for index in batch_indices(len(self), batch_size, seed, rank, world):
            yield self._batch(index, draws)

    def example(self) -> Batch:
        return self._batch(torch.arange(min(EXAMPLE, len(self))), None)

    def digest(self) -> str:
        return tensor_digest(self.inputs if self.target is None else (*self.inputs, self.target))

    def _batch(self, index: torch.Tensor, draws: torch.Generator | None) -> Batch:
        inputs = zip(self.prepare, self.inputs, strict=True)
        target = None if self.target is None else self.target[index]
        return Batch(tuple(prepare(tensor[index], draws) for prepare, tensor in inputs), target)


def tensor_digest(tensors: Sequence[torch.Tensor]) -> str:
    """BLAKE2b over dtype, shape and bytes of each tensor; sixteen hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
