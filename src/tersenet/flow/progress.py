"""Progress on stderr: a bar in a terminal, plain lines elsewhere, nothing when asked to be quiet."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Protocol

from tersenet.train.loop import EpochLog


class Progress(Protocol):
    def phase(self, title: str) -> None: ...

    def epoch(self, log: EpochLog) -> None: ...

    def say(self, sentence: str) -> None: ...

    def close(self) -> None: ...


class Quiet:
    """Says nothing; what Python callers get unless they ask."""

    def phase(self, title: str) -> None: ...

    def epoch(self, log: EpochLog) -> None: ...

    def say(self, sentence: str) -> None: ...

    def close(self) -> None: ...


class Lines:
    """A line when a phase begins, and a line for an epoch at most every few seconds."""

    def __init__(self, every: float = 5.0) -> None:
        self.every, self.last = every, 0.0

    def phase(self, title: str) -> None:
        self.say(title)
        self.last = time.monotonic()

    def epoch(self, log: EpochLog) -> None:
        if time.monotonic() - self.last >= self.every or log.epoch == log.epochs:
            self.say(f"  {describe(log)}")
            self.last = time.monotonic()

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    def close(self) -> None: ...


class Bars:
    """A bar for each phase that trains."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.title = ""
        self.task: Any = None
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[log]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.bar.start()

    def phase(self, title: str) -> None:
        self.title, self.task = title, None
        self.bar.console.print(title, highlight=False)

    def epoch(self, log: EpochLog) -> None:
        if self.task is None or log.epoch == 1:
            self.task = self.bar.add_task("  training", total=log.epochs, log="")
        self.bar.update(self.task, completed=log.epoch, log=describe(log))
        if log.epoch == log.epochs:
            self.task = None

    def say(self, sentence: str) -> None:
        self.bar.console.print(sentence, highlight=False)

    def close(self) -> None:
        self.bar.stop()


def describe(log: EpochLog) -> str:
    parts = [f"epoch {log.epoch}/{log.epochs}", f"loss {log.loss:.4f}"]
    if "error" in log.scores:
        parts.append(f"validation error {100 * log.scores['error']:.2f} %")
    return "  ".join(parts)


def first_process() -> bool:
    """Whether this is the process that speaks and writes, when several train together."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))


def on_stderr() -> Progress:
    if not first_process():
        return Quiet()
    return Bars() if sys.stderr.isatty() else Lines()
