"""Times of compressed networks beside dense ones as a page: bars for each case, the table, and what became slower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tersenet.core.disk import replace_file
from tersenet.report import text
from tersenet.report.page import environment

Row = Mapping[str, Any]

NOISE = 0.98
"""Above it a factor below 1 is none to warn of."""


@dataclass(frozen=True)
class Case:
    """One runtime, batch and number of threads. dense, compressed: medians in seconds; dense None where there is none.

    lengths: of the two bars, percent of the longer one; cases differ too much for one scale.
    """

    name: str
    dense: float | None
    compressed: float
    ratio: float | None
    lengths: tuple[float, float]
    slower: bool


@dataclass(frozen=True)
class View:
    """One file, ready for the template. memory: of the compressed network where it takes the least; memory_of: where,
    and what dense takes there."""

    found: Mapping[str, Any]
    cases: tuple[Case, ...]
    best: Case | None
    memory: int | None
    memory_of: str


def write_bench(files: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """The page over what `flow.benching.bench_file` gave. Raises TersenetError where it cannot be written."""
    path = Path(path)
    replace_file(path, render_bench(files).encode("utf-8", errors="replace"))
    return path


def render_bench(files: Sequence[Mapping[str, Any]]) -> str:
    """The HTML of the page, without a script; the same figures give the same page."""
    return environment().get_template("bench.html").render(views=[_view(found) for found in files])


def _view(found: Mapping[str, Any]) -> View:
    pairs: dict[tuple[str, int, int], dict[str, Row]] = {}
    for row in found["rows"]:
        pairs.setdefault((row["runtime"], row["batch"], row["threads"]), {})[row["model"]] = row
    cases = tuple(_case(*key, models) for key, models in pairs.items())
    known = [case for case in cases if case.ratio is not None]
    best = max(known, key=lambda case: case.ratio or 0, default=None)
    return View(found, cases, best, *_least_memory(pairs))


def _least_memory(pairs: Mapping[tuple[str, int, int], Mapping[str, Row]]) -> tuple[int | None, str]:
    told = {case: models for case, models in pairs.items() if models["compressed"]["memory"] is not None}
    if not told:
        return None, "no runtime was asked that reads files"
    case = min(told, key=lambda case: told[case]["compressed"]["memory"])
    dense = f"; dense takes {text.mebibytes(told[case]['dense']['memory'])}" if "dense" in told[case] else ""
    return told[case]["compressed"]["memory"], f"at most, in {case[0]}, batch {case[1]}{dense}"


def _case(runtime: str, batch: int, threads: int, models: Mapping[str, Row]) -> Case:
    compressed = models["compressed"]["p50"] / 1e3
    dense = models["dense"]["p50"] / 1e3 if "dense" in models else None
    most = max(compressed, dense or 0)
    ratio = None if dense is None else text.divide(dense, compressed)
    shares = (text.divide(100 * (dense or 0), most) or 0, text.divide(100 * compressed, most) or 0)
    name = f"{runtime}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
    return Case(name, dense, compressed, ratio, shares, ratio is not None and ratio < NOISE)
