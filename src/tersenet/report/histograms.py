"""Weight histograms before and after as small mirrored shapes: before above the line, after below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tersenet.core.record import Histogram, Record, TensorRow
from tersenet.report.axes import Axis, axis_for, bounded
from tersenet.report.text import count, decimal, divide, percent, tick_decimal

BINS = 96
"""More bins than a small plot has pixels are merged."""


@dataclass(frozen=True)
class Small:
    """One small plot in a 100 × 100 box whose middle line carries the weights' values."""

    name: str
    before: str
    after: str
    low: str
    high: str
    zero: float | None
    zeros: str
    alt: str


def small_multiples(record: Record, places: int) -> tuple[tuple[Small, ...], int]:
    """Histograms of the `places` tensors with the most parameters, in the file's order, and how many are left out."""
    having = [row for row in record.tensors if row.before or row.after]
    chosen = sorted(having, key=lambda row: -row.parameters)[:places]
    kept = {id(row) for row in chosen}
    return tuple(_small(row) for row in having if id(row) in kept), len(having) - len(chosen)


def _small(row: TensorRow) -> Small:
    sides = [side for side in (row.before, row.after) if side]
    axis = _weights(sides)
    before = _outline(row.before, axis, up=True)
    after = _outline(row.after, axis, up=False)
    zeros = f"{_zeros(row.before)} → {_zeros(row.after)}"
    low, high = decimal(axis.low, 2), decimal(axis.high, 2)
    alt = f"Weights of {row.name} from {low} to {high}; exactly zero: {zeros}"
    return Small(row.name, before, after, low, high, axis.place(0) if axis.low < 0 < axis.high else None, zeros, alt)


def _weights(sides: Sequence[Histogram]) -> Axis:
    """The range of both histograms, to the pixel, without room to spare."""
    low = min(bounded(side.low) for side in sides)
    high = max(bounded(side.high) for side in sides)
    return Axis(low, high, log=False) if low < high else axis_for((low,), tick_decimal)


def _outline(side: Histogram | None, axis: Axis, *, up: bool) -> str:
    """SVG path of the filled steps. The highest bin reaches the edge of its half."""
    counts = _merged(side.counts) if side else ()
    highest = max(counts, default=0)
    if side is None or highest <= 0:
        return ""
    low, high = bounded(side.low), bounded(side.high)
    edges = [axis.place(low + (high - low) * place / len(counts)) for place in range(len(counts) + 1)]
    heights = [48 * max(0.0, divide(number, highest) or 0.0) for number in counts]
    steps = "".join(
        f"V{_number(50 - height if up else 50 + height)}H{_number(edge)}"
        for height, edge in zip(heights, edges[1:], strict=True)
    )
    return f"M{_number(edges[0])},50{steps}V50Z"


def _merged(counts: Sequence[int]) -> Sequence[int]:
    together = -(-len(counts) // BINS)
    return counts if together <= 1 else [sum(counts[i : i + together]) for i in range(0, len(counts), together)]


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _zeros(side: Histogram | None) -> str:
    """'215,040 (91.4 %)', or that it was not recorded."""
    if side is None:
        return "not recorded"
    return f"{count(side.zeros)} ({percent(divide(side.zeros, side.zeros + sum(side.counts)), 1)})"
