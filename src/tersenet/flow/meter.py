"""How far a long pass over bytes has come, and how fast it is: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Says nothing."""

    @contextmanager
    def over(self, total: int) -> Iterator[None]:
        """`total`: bytes that will be advanced over, about."""
        yield

    def advance(self, count: int) -> None: ...


class LineMeter(Meter):
    """A line every few seconds on stderr."""

    def __init__(self, title: str, every: float = 5.0) -> None:
        self.title, self.every, self.done = title, every, 0

    @contextmanager
    def over(self, total: int) -> Iterator[None]:
        self.total = total
        self.begun = self.last = time.monotonic()
        yield

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last >= self.every:
            share, speed = 100 * self.done / max(self.total, 1), self.done / 1e6 / (now - self.begun)
            print(f"{self.title}: {min(share, 100):.0f} % at {speed:,.0f} MB/s", file=sys.stderr, flush=True)
            self.last = now


class BarMeter(Meter):
    """A bar on stderr."""

    def __init__(self, title: str) -> None:
        self.title = title

    @contextmanager
    def over(self, total: int) -> Iterator[None]:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as self.bar:
            self.task = self.bar.add_task(self.title, total=total)
            yield

    def advance(self, count: int) -> None:
        self.bar.advance(self.task, count)


def on_stderr(title: str) -> Meter:
    return BarMeter(title) if sys.stderr.isatty() else LineMeter(title)
