"""Global random numbers inside, none of it felt outside: users' loaders and transforms draw from global generators."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from tersenet.core.seeds import derive

T = TypeVar("T")


def isolated(items: Iterable[T], seed: int) -> Iterator[T]:
    """`items` gone through with the global generators of torch, NumPy and Python seeded from `seed`.

    Between two items the caller sees its own generators, as if nothing had been drawn.
    """
    inside = _seeded(seed)
    with _swapped(inside):
        iterator = iter(items)
    while True:
        with _swapped(inside):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def _seeded(seed: int) -> list[Any]:
    numpy_state = np.random.RandomState(derive(seed, "numpy") % 2**32).get_state()
    return [
        torch.Generator().manual_seed(derive(seed, "torch")).get_state(),
        numpy_state,
        random.Random(derive(seed, "python")).getstate(),
    ]


def _get() -> list[Any]:
    return [torch.get_rng_state(), np.random.get_state(), random.getstate()]


def _set(states: list[Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


@contextmanager
def _swapped(inside: list[Any]) -> Iterator[None]:
    """Puts `inside` in place, and takes what it has become back into the list."""
    outside = _get()
    _set(inside)
    try:
        yield
    finally:
        inside[:] = _get()
        _set(outside)
