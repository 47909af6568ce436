"""How long models take in runtimes, call by call in turn, so that what else the machine does hits all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from torch import nn

from tersenet.runtime.session import Session

WARM = 3
"""Calls that are not counted."""

LEAST = 7
"""Calls that are counted, however long they take."""


@dataclass(frozen=True)
class Timing:
    """Of one model in one runtime: milliseconds a call at percentiles, examples a second, milliseconds to load it."""

    model: str
    runtime: str
    batch: int
    threads: int
    p50: float
    p90: float
    p99: float
    throughput: float
    calls: int
    load: float


def bench(
    sources: Mapping[str, str | Path | nn.Module],
    runtime: str,
    inputs: Sequence[np.ndarray],
    threads: int,
    seconds: float,
) -> list[Timing]:
    """`sources` by what they are called, each given `inputs` in turn for `seconds` in all, at least seven times."""
    sessions, loads = {}, {}
    for name, source in sources.items():
        begun = perf_counter()
        sessions[name] = Session(source, runtime, threads=threads)
        loads[name] = 1e3 * (perf_counter() - begun)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(WARM):
        for session in sessions.values():
            session(*inputs)
    begun = perf_counter()
    while perf_counter() - begun < seconds or len(next(iter(times.values()))) < LEAST:
        for name, session in sessions.items():
            started = perf_counter()
            session(*inputs)
            times[name].append(1e3 * (perf_counter() - started))
    batch = len(inputs[0])
    return [_timing(name, runtime, batch, threads, row, loads[name]) for name, row in times.items()]


def _timing(name: str, runtime: str, batch: int, threads: int, row: list[float], load: float) -> Timing:
    p50, p90, p99 = (float(one) for one in np.percentile(row, [50, 90, 99]))
    return Timing(name, runtime, batch, threads, p50, p90, p99, 1e3 * batch / p50, len(row), load)
