"""What benchmarks of kernels have in common: sections of measured rows, calls in turn, and the command line."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

Calls = dict[str, Callable[[], Any]]
Name = TypeVar("Name")


@dataclass(frozen=True)
class Effort:
    """Each row is measured for at least so many seconds and rounds of calls."""

    seconds: float
    rounds: int


SETTLE, TURN = 0.03, 5
"""Seconds of calls that are not counted in a turn, and how many are."""

Section = Callable[[Effort], Iterator[Any]]


def interleaved(
    calls: Mapping[Name, Callable[[], Any]], effort: Effort, clock: Callable[[], float] | None = None
) -> dict[Name, float]:
    """Median milliseconds of each call. Each has its turn again and again: calls that are not counted until the caches
    are its own and the threads of the one before have stopped to wait in a loop, then some that are. clock: seconds; by
    default those of the processor on this thread where there is but one, so that other work does not count."""
    clock = clock or (time.perf_counter if torch.get_num_threads() > 1 else time.thread_time)
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    begun = time.perf_counter()
    while len(next(iter(times.values()))) < effort.rounds or time.perf_counter() - begun < effort.seconds:
        for name, call in calls.items():
            settled = time.perf_counter() + SETTLE
            while time.perf_counter() < settled:
                call()
            for _ in range(TURN):
                start = clock()
                call()
                times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(row) for name, row in times.items()}


def in_new_processes(script: str) -> dict[str, dict[str, float]]:
    """{kernel: milliseconds of its first call} in a process that finds no compiled code, and in the next one, which
    finds it on the disk. `script --first` tells seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, script, "--first"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        compiled, read = (
            json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        )
    return {name: {"compiled": 1e3 * first, "from the disk": 1e3 * read[name]} for name, first in compiled.items()}


def main(
    summary: str,
    sections: Mapping[str, Section],
    first_calls: Callable[[], dict[str, float]],
    write: Callable[[Path, str, list[Any], int], None],
    *,
    results: str,
    threads: int,
    counted: str,
) -> None:
    """Measure the sections that are asked for, and hand the rows of each, where there are any, to `write`.

    first_calls: seconds of the first call of each kernel in this process. counted: what the printed line of a row says
    beside its case, 'batch' or 'points'.
    """
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(sections))
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each row, at least")
    parser.add_argument("--rounds", type=int, default=7, help="of calls for each row, at least")
    parser.add_argument("--results", type=Path, default=Path(results))
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(sections):
        parser.error(f"no section '{min(unknown)}'; there are {', '.join(sections)}")
    torch.set_num_threads(options.threads)
    if options.first:
        print(json.dumps(first_calls()))
        return
    effort = Effort(options.seconds, options.rounds)
    for name in options.sections or sections:
        rows = []
        for row in sections[name](effort):
            rows.append(row)
            shown = {who: round(ms, 3) for who, ms in row.ms.items()}
            print(name, row.case, getattr(row, counted), shown, flush=True)
        if rows:
            write(options.results, name, rows, options.threads)
