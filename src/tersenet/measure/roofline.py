"""The two constants of a machine that bound what a layer can do: arithmetic and memory bandwidth, both measured."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

from tersenet.core.profile import Roof

SIDE = 512
"""Of the matrices that are multiplied: 2·SIDE³ operations on 3 MiB, far on the side of arithmetic."""
COPIED = 2**27
"""Bytes that are copied: more than most caches hold."""


def measure_roof(products: int = 40, copies: int = 8) -> Roof:
    """The fastest of several products of float32 matrices and of several copies, with the threads that torch has now.

    The fastest, since other programs can only make them slower, and a roof is what can be reached. Takes less than a
    second. A copy reads and writes, so it moves its bytes twice.
    """
    matrix = torch.full((SIDE, SIDE), 0.5)
    product = torch.empty_like(matrix)
    source = torch.ones(COPIED // 4)
    target = torch.ones_like(source)  # written once, so that its pages are there
    return Roof(
        flops=2 * SIDE**3 / _least_seconds(lambda: torch.mm(matrix, matrix, out=product), products),
        bandwidth=2 * COPIED / _least_seconds(lambda: target.copy_(source), copies),
    )


def _least_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        begun = perf_counter()
        work()
        times.append(perf_counter() - begun)
    return max(min(times), 1e-9)
