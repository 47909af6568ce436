"""Work of one call over several threads. Kernels release the interpreter's lock, so plain threads do.

Not numba's own: of its two pools that need nothing else installed, one ends the process when two threads call at once,
and the other waits in a loop, which on a busy machine takes the processor from whom it waits for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch

GRAIN = 50_000
"""Operations worth a thread of their own: handing work over takes some 30 µs, an operation about half a ns."""

_pool: ThreadPoolExecutor | None = None


def parts(operations: int) -> int:
    """Into how many parts to cut work of so many operations: at most the threads that torch is set to."""
    return max(1, min(torch.get_num_threads(), operations // GRAIN))


def cuts(length: int, count: int, multiple: int = 1) -> list[tuple[int, int]]:
    """[0, length) as at most `count` ranges of about the same size, ends on multiples of `multiple`."""
    blocks = -(-length // multiple)
    places = sorted({min(length, multiple * (blocks * i // count)) for i in range(count + 1)})
    return list(pairwise(places))


def spread(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
    """`work(*each)` for each of the arguments, one in this thread and the others beside it; raises what they do.

    What no other thread has begun by the time this one is done, this one does: on a busy machine nobody waits for a
    thread that waits for the processor.
    """
    if not arguments:
        return
    others = [(each, _threads().submit(work, *each)) for each in arguments[1:]]
    try:
        work(*arguments[0])
        for each, other in others:
            if other.cancel():
                work(*each)
    finally:
        for _, other in others:
            if not other.cancel():
                other.result()


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kernel")
    return _pool


def _forget() -> None:
    """A child process has none of the threads."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget)
