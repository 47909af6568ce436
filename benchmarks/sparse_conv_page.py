"""The page about convolution on clouds of points: tables and the plot, from what `sparse_conv.py` measured."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

PAGE = Path(__file__).parent.parent / "docs" / "results" / "sparse_conv.md"
OURS, UNGROUPED, MAPS = "ours", "ungrouped", "maps"
DENSE, BF16, SEARCH = "dense fp32", "dense bf16", "NumPy, binary search"

PADDING = {UNGROUPED: -1.0, "0%": 0.0, "10%": 0.1, "25%": 0.25, "50%": 0.5, "100%": 1.0}
"""Share of a batched product that may be padding."""


@dataclass
class Row:
    """One measured case: median milliseconds by what was computed.

    grid: sites of the smallest box that holds all points. outputs: sites of the result. pairs: of points and taps.
    """

    section: str
    case: str
    ms: dict[str, float]
    points: int = 0
    grid: int = 0
    outputs: int = 0
    pairs: int = 0
    channels: int = 0

    @property
    def density(self) -> float:
        return self.points / self.grid


HEAD = """# Convolution on clouds of points

Written by `python benchmarks/sparse_conv.py`, from `results/sparse_conv.json`. Times are medians in milliseconds of
calls in turn, within one run, and *faster* is the ratio of two of them: above 1, ours is the faster one. *Ours* is
float32, gather, batched matmul of grouped taps and scatter, on kernel maps made before, as layers that share a cloud
share its maps; *maps* is the time to make them. *Ungrouped* is the same with a product for each tap. *Dense* is torch's
convolution, channels last, on the smallest grid that holds all points; at our sites it gave the same. All kernels have
3 taps along each axis. With one thread, time is that of the processor on that thread; with more it is that of the
clock. Machine: AMD EPYC (Zen 4, AVX-512, bf16), 2 cores, nothing else at work but what other guests of the host do.

The scan is synthetic (`benchmarks/point_clouds.py`): rays of 64 beams in 2048 directions end at the ground or at boxes
along a street, off by 2 cm; a site is a voxel that holds a point. Random sites all have the same chance.
"""


def write(results: Path, section: str, rows: list[Row], threads: int) -> None:
    """Keeps the rows of one section for this number of threads, and writes page and plot from all there are."""
    held: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    held.setdefault(section, {})[str(threads)] = [asdict(row) for row in rows]
    results.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    parts = {"scan": _scans, "grouping": _grouping, "sweep": _sweep, "maps": _maps, "compile": _first_calls}
    lines = [HEAD]
    for name, part in parts.items():
        by_threads = {n: [Row(**row) for row in own] for n, own in sorted(held.get(name, {}).items())}
        lines += part(by_threads) if by_threads else []
    PAGE.write_text("\n".join(lines).rstrip("\n") + "\n")


def _threads(number: str) -> str:
    return f"{number} thread{'s' if number != '1' else ''}"


def _table(head: list[str], cells: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)] + [""]


def _against(row: Row, rival: str) -> list[str]:
    """Milliseconds of a rival, and how much faster ours is; dashes where it was not measured."""
    ms = row.ms.get(rival)
    return ["–", "–"] if ms is None else [f"{ms:.2f}", f"**{ms / row.ms[OURS]:.1f}×**"]


RIVALS = (UNGROUPED, DENSE, BF16)
FASTER = [name for rival in RIVALS for name in (rival, "faster")]


def _scans(by_threads: dict[str, list[Row]]) -> list[str]:
    lines = [
        "## A scan of a street\n",
        "Dense is left out where its grid has more than a million sites; *density* is the share that hold a point.\n",
    ]
    head = ["scan", "channels", "points", "density", "outputs", "pairs a point", "maps", OURS, *FASTER]
    for threads, rows in by_threads.items():
        cells = [
            [r.case, str(r.channels), f"{r.points:,}", f"{r.density:.2%}", f"{r.outputs:,}"]
            + [f"{r.pairs / r.points:.1f}", f"{r.ms[MAPS]:.2f}", f"{r.ms[OURS]:.2f}"]
            + [cell for rival in RIVALS for cell in _against(r, rival)]
            for r in rows
        ]
        lines += [f"{_threads(threads)}:\n", *_table(head, cells)]
    return lines


def _grouping(by_threads: dict[str, list[Row]]) -> list[str]:
    lines = [
        "## Grouping\n",
        "Times by the share of a batched product that may be padding; 25% where nothing else is asked for. With 0%",
        "only taps of as many pairs share a product, as opposite ones do; with 100% all that do not fill one alone.\n",
    ]
    for threads, rows in by_threads.items():
        cells = [[r.case, str(r.channels), f"{r.points:,}", *(f"{r.ms[name]:.2f}" for name in PADDING)] for r in rows]
        lines += [f"{_threads(threads)}:\n", *_table(["scan", "channels", "points", *PADDING], cells)]
    return lines


def _sweep(by_threads: dict[str, list[Row]]) -> list[str]:
    threads, rows = next(iter(by_threads.items()))
    PAGE.with_suffix(".svg").write_bytes(figure_of(rows, _threads(threads)))
    lines = [
        "## From which density on dense is faster\n",
        f"Random sites of a grid of {rows[0].case} channels, submanifold, {_threads(threads)}; dense computes all.\n",
        "![](sparse_conv.svg)\n",
    ]
    for (series, cost), rival in itertools.product(SERIES.items(), (DENSE, BF16)):
        place = break_even(rows, cost, rival)
        told = "at every density measured" if place is None else f"below a density of {place:.1%}"
        lines.append(f"- {series}: faster than {rival} {told}.")
    head = ["density", "points", "maps", OURS, *FASTER]
    cells = [
        [f"{r.density:.1%}", f"{r.points:,}", f"{r.ms[MAPS]:.2f}", f"{r.ms[OURS]:.2f}"]
        + [cell for rival in RIVALS for cell in _against(r, rival)]
        for r in rows
    ]
    return [*lines, "", *_table(head, cells)]


def _maps(by_threads: dict[str, list[Row]]) -> list[str]:
    lines = ["## Kernel maps\n", "Of points and 27 taps; NumPy looks for the same half of the taps in sorted keys.\n"]
    head = ["cloud", "points", "pairs", OURS, "million points a second", SEARCH, "faster"]
    for threads, rows in by_threads.items():
        cells = [
            [r.case, f"{r.points:,}", f"{r.pairs:,}", f"{r.ms[OURS]:.2f}", _rate(r), *_against(r, SEARCH)] for r in rows
        ]
        lines += [f"{_threads(threads)}:\n", *_table(head, cells)]
    return lines


def _rate(row: Row) -> str:
    return f"{row.points / row.ms[OURS] / 1e3:.1f}"


def _first_calls(by_threads: dict[str, list[Row]]) -> list[str]:
    lines = [
        "## First call\n",
        "Seconds of the processor for a first call: compiled anew, and read from numba's cache.\n",
    ]
    rows = next(iter(by_threads.values()))
    cells = [[r.case, f"{r.ms['compiled'] / 1e3:.1f}", f"{r.ms['from the disk'] / 1e3:.2f}"] for r in rows]
    return lines + _table(["kernel", "compiled", "from the disk"], cells)


SERIES: dict[str, Callable[[Row], float]] = {
    "ours, maps made before": lambda row: row.ms[OURS],
    "ours, maps made for this layer alone": lambda row: row.ms[OURS] + row.ms[MAPS],
}


def break_even(rows: list[Row], cost: Callable[[Row], float], rival: str) -> float | None:
    """The density at which ours takes as long as the rival, between the measured ones along straight lines in
    logarithms; None where it is the faster one everywhere."""
    for before, after in itertools.pairwise(rows):
        gaps = [math.log(cost(row) / row.ms[rival]) for row in (before, after)]
        if gaps[0] < 0 <= gaps[1]:
            share = gaps[0] / (gaps[0] - gaps[1])
            return before.density * (after.density / before.density) ** share
    return None


def figure_of(rows: list[Row], threads: str) -> bytes:
    """Milliseconds against density, both logarithmic, as an SVG; circles where ours meets a dense one."""
    with matplotlib.rc_context({"svg.hashsalt": "tersenet", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        densities = [100 * row.density for row in rows]
        for name, style in ((DENSE, "k--"), (BF16, "k:")):
            axes.plot(densities, [row.ms[name] for row in rows], style, linewidth=1, label=f"{name}, torch")
        for colour, (name, cost) in enumerate(SERIES.items()):
            axes.plot(densities, [cost(row) for row in rows], "o-", color=f"C{colour}", markersize=3, label=name)
            for rival in (DENSE, BF16):
                if (place := break_even(rows, cost, rival)) is not None:
                    spot = (100 * place, _between(rows, rival, place))
                    axes.plot(*spot, "o", color=f"C{colour}", markersize=9, fillstyle="none")
                    under = ((6, -14), (-34, 8))[colour]
                    axes.annotate(f"{place:.0%}", spot, under, textcoords="offset points", color=f"C{colour}")
        axes.set(xscale="log", yscale="log", xlabel="sites with a point, %", ylabel="ms")
        axes.set_title(f"3×3×3 submanifold convolution, random sites of {rows[0].case} channels, {threads}")
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
        axes.legend(fontsize=8)
        text = io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _between(rows: list[Row], rival: str, density: float) -> float:
    """Milliseconds of the rival at a density, along straight lines in logarithms."""
    for before, after in itertools.pairwise(rows):
        if before.density <= density <= after.density:
            share = math.log(density / before.density) / math.log(after.density / before.density)
            return before.ms[rival] ** (1 - share) * after.ms[rival] ** share
    raise ValueError(f"no rows around a density of {density}")
