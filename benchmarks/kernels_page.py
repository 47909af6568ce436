"""The page about the kernels: tables and the plot of time against density, from what `kernels.py` measured."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from tersenet.report.axes import Axis, axis_for
from tersenet.report.plots import path

PAGE = Path(__file__).parent.parent / "docs" / "results" / "kernels.md"
OURS, DENSE = "ours", "dense torch"


@dataclass
class Row:
    """One measured case: median milliseconds by who computed it. bytes: of the packed weight, and of the dense one."""

    section: str
    case: str
    ms: dict[str, float]
    batch: int = 1
    density: float = 0.0
    bytes: tuple[int, int] | None = None
    published: str = ""


TITLES = {
    "eie": "Sparse columns of 4-bit codes, as EIE stores them",
    "xnor": "Signs: exclusive or and counts of bits",
    "lookup": "Looked-up partial sums",
    "semi": "2:4",
    "gpu": "2:4 on a GPU: torch's semi-structured tensors beside dense ones of the same type, by the clock",
    "lowered": "Convolutions of LeNet without the rows and columns that SSL removed",
    "lowered_alexnet": "Convolutions of AlexNet without the shares of rows and columns that SSL removed",
}
HEAD = """# Kernels on the compressed form

Written by `python benchmarks/kernels.py`, from `results/kernels.json`. None of the kernels writes the dense weight out.
Times are medians in milliseconds of calls in turn, within one run, and *faster* is the ratio of two of them: above 1,
ours is the faster one. Dense is float32. Before timing, all columns of a row gave the same product. With one thread,
time is that of the processor on that thread; with more it is that of the clock. Calls of one kind follow one another,
so what fits into the caches stays there: compressed weights often do, and dense ones of these sizes do not. Machine:
AMD EPYC (Zen 4, AVX-512), 2 cores, nothing else at work but what other guests of the host do.
"""


def write(results: Path, section: str, rows: list[Row], threads: int) -> None:
    """Keeps the rows of one section for this number of threads, and writes page and plot from all there are."""
    held: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    held.setdefault(section, {})[str(threads)] = [asdict(row) for row in rows]
    results.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    found = {name: {n: [Row(**row) for row in own] for n, own in sorted(by.items())} for name, by in held.items()}
    PAGE.write_text("\n".join(_page(found)).rstrip("\n") + "\n")


def _page(found: dict[str, dict[str, list[Row]]]) -> list[str]:
    lines = [HEAD]
    for section in (name for name in TITLES if name in found):
        lines.append(f"## {TITLES[section]}\n")
        for threads, rows in found[section].items():
            lines += [_threads(threads), *_table(rows), ""]
    if "sweep" in found:
        threads, rows = next(iter(found["sweep"].items()))
        lines += [*_density(rows, threads)]
    if "compile" in found:
        lines += _first_calls(next(iter(found["compile"].values())))
    return lines


def _threads(number: str) -> str:
    return f"{number} thread{'s' if number != '1' else ''}:\n"


def _first_calls(rows: list[Row]) -> list[str]:
    lines = [
        "## First call\n",
        "Seconds of the first call of a process: compiled anew, and read from numba's cache.",
        "",
    ]
    lines += ["| kernel | compiled | from the disk |", "| --- | --- | --- |"]
    return lines + [f"| {r.case} | {r.ms['compiled'] / 1e3:.1f} | {r.ms['from the disk'] / 1e3:.2f} |" for r in rows]


def _table(rows: list[Row]) -> list[str]:
    """A row for each case; for each rival its time and how much faster ours is."""
    rivals = list(dict.fromkeys(name for row in rows for name in row.ms if name != OURS))
    published = any(row.published for row in rows)
    sizes = any(row.bytes for row in rows)
    head = ["case", "batch", OURS, *(f"{name} | faster" for name in rivals)]
    head += ["bytes, of dense"] * sizes + ["published"] * published
    lines = ["| " + " | ".join(head) + " |", "| --- " * (len(head) + len(rivals)) + "|"]
    for row in rows:
        cells = [row.case, str(row.batch), f"{row.ms[OURS]:.3f}"]
        for name in rivals:
            ms = row.ms.get(name)
            cells += ["–", "–"] if ms is None else [f"{ms:.3f}", f"**{ms / row.ms[OURS]:.1f}×**"]
        cells += ["–" if row.bytes is None else f"{row.bytes[0] / row.bytes[1]:.1%}"] * sizes
        lines.append("| " + " | ".join(cells + [row.published] * published) + " |")
    return lines


def break_even(rows: list[Row]) -> float | None:
    """The density at which ours takes as long as dense, between the measured ones along straight lines in logarithms;
    None where it is the faster one everywhere."""
    for before, after in itertools.pairwise(rows):
        gaps = [math.log(row.ms[OURS] / row.ms[DENSE]) for row in (before, after)]
        if gaps[0] < 0 <= gaps[1]:
            share = gaps[0] / (gaps[0] - gaps[1])
            return before.density * (after.density / before.density) ** share
    return None


def _density(rows: list[Row], threads: str) -> list[str]:
    series = {case: [row for row in rows if row.case == case] for case in dict.fromkeys(row.case for row in rows)}
    PAGE.with_suffix(".svg").write_text(_svg(series))
    lines = [
        "## From which density on it pays\n",
        f"4096→4096, batch 1, 4-bit codes, {_threads(threads).strip()}",
        "",
        "![](kernels.svg)",
        "",
    ]
    for case, held in series.items():
        place = break_even(held)
        told = "ours is faster at every density" if place is None else f"ours is faster below a density of {place:.0%}"
        lines.append(f"- {case} of the inputs active: {told}.")
    lines += ["", "| inputs active | weights | ours | dense torch | faster |", "| --- " * 5 + "|"]
    lines += [
        f"| {r.case} | {r.density:.0%} | {r.ms[OURS]:.3f} | {r.ms[DENSE]:.3f} | **{r.ms[DENSE] / r.ms[OURS]:.1f}×** |"
        for r in rows
    ]
    return [*lines, ""]


COLOURS = ("#1f6feb", "#1a7f37", "#8250df")
WIDE, HIGH, LEFT, TOP = 560, 300, 60, 20


def _svg(series: dict[str, list[Row]]) -> str:
    """Milliseconds against density, both logarithmic; dense as one dashed line, break-evens as circles."""
    rows = [row for held in series.values() for row in held]
    dense = sorted(row.ms[DENSE] for row in rows)[len(rows) // 2]
    x = axis_for([row.density for row in rows], lambda value, _: f"{value:.0%}", log=True)
    y = axis_for([*(row.ms[OURS] for row in rows), dense], lambda value, _: f"{value:g} ms", log=True)
    parts = [*_grid(x, y), _line([(0, y.place(dense)), (100, y.place(dense))], "#57606a", 'stroke-dasharray="6 4"')]
    parts.append(_text(LEFT + 8, _down(y.place(dense)) - 6, "dense torch", "#57606a"))
    for colour, (case, held) in zip(COLOURS, series.items(), strict=False):
        parts.append(_line([(x.place(row.density), y.place(row.ms[OURS])) for row in held], colour))
        early = held[len(held) // 4]
        spot = LEFT + WIDE * x.place(early.density) / 100 + 6, _down(y.place(early.ms[OURS])) + 18
        parts.append(_text(*spot, f"{case} of the inputs active", colour))
        if (at := break_even(held)) is not None:
            across = LEFT + WIDE * x.place(at) / 100
            parts.append(f'<circle cx="{across:.0f}" cy="{_down(y.place(dense)):.0f}" r="5" fill="{colour}"/>')
            parts.append(_text(across + 8, _down(y.place(dense)) + 18, f"{at:.0%}", colour))
    size = f"0 0 {LEFT + WIDE + 30} {TOP + HIGH + 50}"
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def _down(place: float) -> float:
    return TOP + HIGH * (100 - place) / 100


def _text(x: float, y: float, text: str, colour: str = "#1f2328") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{escape(text)}</text>'


def _line(places: list[tuple[float, float]], colour: str, more: str = "") -> str:
    """Places are in percent of the plot's sides."""
    scale = f"translate({LEFT} {TOP}) scale({WIDE / 100} {HIGH / 100})"
    held = f'fill="none" stroke="{colour}" stroke-width="2" vector-effect="non-scaling-stroke"'
    return f'<path d="{path(places)}" transform="{scale}" {held} {more}/>'


def _grid(x: Axis, y: Axis) -> list[str]:
    lines = ['<rect width="100%" height="100%" fill="#ffffff"/>']
    for tick in x.ticks:
        lines += [
            _line([(tick.at, 0), (tick.at, 100)], "#d0d7de"),
            _text(LEFT + WIDE * tick.at / 100 - 10, TOP + HIGH + 18, tick.label),
        ]
    for tick in y.ticks:
        lines += [_line([(0, tick.at), (100, tick.at)], "#d0d7de"), _text(4, _down(tick.at) + 4, tick.label)]
    return [*lines, _text(LEFT + WIDE / 2 - 60, TOP + HIGH + 40, "weights other than zero")]
