"""Which examples make up which batch, on one rank or many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tersenet.core.seeds import generator


def batch_count(length: int, batch_size: int, world: int = 1) -> int:
    """Batches of one pass on each rank."""
    return math.ceil(max(length // world, min(length, 1)) / batch_size)


def batch_indices(length: int, batch_size: int, seed: int | None, rank: int, world: int) -> Sequence[torch.Tensor]:
    """The places in [0, length) that each batch of one pass takes, on this rank.

    With a seed: every world-th of the shuffled places, cut to the same number on every rank. A last batch of one
    example, on which batch norm cannot train, takes one from the batch before.
    """
    if seed is None:
        mine = torch.arange(length)[rank::world]
        return _even(mine, batch_size, length, world) if world > 1 else mine.split(batch_size)  # type: ignore[no-untyped-call]
    order = torch.randperm(length, generator=generator(seed, "order"))
    share = max(length // world, 1)
    mine = order[rank % length :: world][:share] if length else order
    return _no_single(list(mine.split(batch_size)), batch_size)  # type: ignore[no-untyped-call]


def _even(mine: torch.Tensor, batch_size: int, length: int, world: int) -> list[torch.Tensor]:
    """As many batches on every rank although some ranks hold one example less."""
    count = math.ceil(math.ceil(length / world) / batch_size)
    return [batch for batch in mine.tensor_split(count) if len(batch)] if count else []


def _no_single(batches: list[torch.Tensor], batch_size: int) -> list[torch.Tensor]:
    if len(batches) < 2 or len(batches[-1]) > 1 or batch_size < 3:
        return batches
    last_two = torch.cat(batches[-2:])
    return [*batches[:-2], *last_two.split([batch_size - 1, 2])]  # type: ignore[no-untyped-call]
