"""Splits that are not held in memory: a map-style dataset read through a DataLoader, or a user's own loader."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tersenet.core.errors import DataError
from tersenet.core.seeds import derive, generator
from tersenet.data.collate import to_batch
from tersenet.data.isolated import isolated
from tersenet.data.order import batch_count, batch_indices
from tersenet.data.prepare import Prepare
from tersenet.data.source import Batch
from tersenet.data.tensors import EXAMPLE, tensor_digest


class DatasetSource:
    """`dataset[i]` is one example; `workers` processes read and collate them, batches are prepared as tensors."""

    def __init__(self, dataset: Dataset[Any], where: str, prepare: Sequence[Prepare] = (), workers: int = 0) -> None:
        self.dataset, self.where, self.prepare, self.workers = dataset, where, tuple(prepare), workers

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batch_count(self, batch_size: int, world: int = 1) -> int:
        return batch_count(len(self), batch_size, world)

    def batches(self, batch_size: int, *, seed: int | None = None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        draws = None if seed is None else generator(seed, "augment", rank)
        order = [index.tolist() for index in batch_indices(len(self), batch_size, seed, rank, world)]
        return self._read(order, draws, derive(seed or 0, "workers", rank), self.workers)

    def example(self) -> Batch:
        if len(self) == 0:
            raise DataError(f"{self.where} is empty")
        return next(self._read([list(range(min(EXAMPLE, len(self))))], None, 0, 0))

    def digest(self) -> str:
        """Of the number of examples and the first few: reading all would take as long as an epoch."""
        return _first_digest(len(self), self.example())

    def _read(self, order: list[list[int]], draws: torch.Generator | None, seed: int, workers: int) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            self.dataset, batch_sampler=order, num_workers=workers, generator=torch.Generator().manual_seed(seed)
        )
        try:
            for item in isolated(loader, seed):
                yield self._prepared(to_batch(item, self.where), draws)
        except DataError as error:  # from a worker it comes with the worker's traceback as its message
            raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from None

    def _prepared(self, batch: Batch, draws: torch.Generator | None) -> Batch:
        if not self.prepare:
            return batch
        pairs = zip(self.prepare, batch.inputs, strict=True)
        return Batch(tuple(prepare(tensor, draws) for prepare, tensor in pairs), batch.target)


class LoaderSource:
    """A user's loader, or any other iterable of batches that can be gone through again.

    Its batch size and order are its own; `batch_size` is not used. Where it shuffles with torch's global generator, or
    with one of its own, the order follows from the seed of the pass.
    """

    def __init__(self, loader: Iterable[Any], where: str) -> None:
        self.loader, self.where = loader, where
        if iter(loader) is loader:
            raise DataError(
                f"{where}: an iterator can be gone through only once; give a DataLoader or a list of batches"
            )

    def __len__(self) -> int:
        dataset = getattr(self.loader, "dataset", None)
        if hasattr(dataset, "__len__"):
            return len(dataset)  # type: ignore[arg-type]
        return sum(len(to_batch(item, self.where)) for item in isolated(self.loader, 0))

    def batch_count(self, batch_size: int, world: int = 1) -> int:
        try:
            batches = len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            raise DataError(f"{self.where}: the loader has no length; give one of which len() is known") from None
        if batches < world:
            raise DataError(f"{self.where}: {batches} batches are too few for {world} processes")
        return batches // world

    def batches(self, batch_size: int, *, seed: int | None = None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Every world-th batch; with a seed the last few are left out so that all ranks get equally many."""
        stop = None if seed is None or world == 1 else self.batch_count(batch_size, world) * world
        with _reseeded(self.loader, derive(seed or 0, "loader")):
            for item in itertools.islice(isolated(self.loader, seed or 0), rank, stop, world):
                yield to_batch(item, self.where)

    def example(self) -> Batch:
        for batch in self.batches(EXAMPLE):
            return batch
        raise DataError(f"{self.where} is empty")

    def digest(self) -> str:
        """Of the number of examples and the first batch: reading all would take as long as an epoch."""
        return _first_digest(len(self), self.example())


@contextmanager
def _reseeded(loader: Any, seed: int) -> Iterator[None]:
    """The loader's own generators start from `seed`, and have their state back afterwards."""
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    own = list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
    states = [one.get_state() for one in own]
    for one in own:
        one.manual_seed(seed)
    try:
        yield
    finally:
        for one, state in zip(own, states, strict=True):
            one.set_state(state)


def _first_digest(length: int, batch: Batch) -> str:
    target = () if batch.target is None else (batch.target,)
    return tensor_digest([torch.tensor(length), *batch.inputs, *target])
