"""Axes of a plot: from values to places in percent of the plot's side, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Spell = Callable[[float, float], str]
"""Spells a tick, given its value and the step between ticks (0 on a logarithmic scale)."""

LIMIT = 1e100
"""Values beyond ± this are drawn at the edge; differences of such values would overflow."""


def bounded(value: float) -> float:
    """`value` within ±LIMIT, as a float; 0 where it is smaller than 1 / LIMIT, whose differences would vanish."""
    held = float(max(-LIMIT, min(LIMIT, value)))
    return held if abs(held) >= 1 / LIMIT else 0.0


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A scale from `low` (place 0) to `high` (place 100)."""

    low: float
    high: float
    log: bool
    ticks: tuple[Tick, ...] = ()

    def place(self, value: float) -> float:
        """Percent of the axis at which `value` lies, cut off at its ends."""
        low, high, here = self.low, self.high, bounded(value)
        if self.log:
            if here <= 0:
                return 0.0
            low, high, here = math.log10(low), math.log10(high), math.log10(here)
        return round(100 * max(0.0, min(1.0, (here - low) / (high - low))), 2)


def axis_for(values: Iterable[float], label: Spell, *, log: bool = False, zero: bool = False) -> Axis:
    """An axis that holds all `values`, ending on ticks.

    log: a logarithmic scale, if all values are positive; else a linear one.
    zero: a linear scale starts at 0 where no value is below.
    """
    held = [bounded(value) for value in values] or [0.0, 1.0]
    if log and min(held) > 0:
        return _logarithmic(min(held), max(held), label)
    return _linear(min(held), max(held), label, zero)


def _linear(low: float, high: float, label: Spell, zero: bool) -> Axis:
    if zero and low >= 0:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-90):  # one value: give it some room
        margin = abs(high) / 2 or 0.5
        low, high = (0.0 if zero and low >= 0 else low - margin), high + margin
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    axis = Axis(first * step, last * step, log=False)
    return _with_ticks(axis, [place * step for place in range(first, last + 1)], label, step)


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 5, 10 × 10^k that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(times * power for times in (1.0, 2.0, 5.0, 10.0, 20.0) if times * power >= step * (1 - 1e-9))


def _logarithmic(low: float, high: float, label: Spell) -> Axis:
    """Ends and ticks at 1, 2, 5 × 10^k; only at every n-th power of ten where that would be too many."""
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    grid = [times * 10.0**power for power in range(first - 1, last + 2) for times in (1, 2, 5)]
    below = [value for value in grid if value <= low * (1 + 1e-9)]
    above = [value for value in grid if value >= high * (1 - 1e-9) and value > below[-1]]
    axis = Axis(below[-1], above[0], log=True)
    inside = [value for value in grid if axis.low <= value <= axis.high]
    if len(inside) > 6:
        stride = max(1, math.ceil((last + 1 - first) / 6))
        inside = [10.0**power for power in range(first, last + 2, stride) if axis.low <= 10.0**power <= axis.high]
    return _with_ticks(axis, inside, label, 0.0)


def _with_ticks(axis: Axis, values: Iterable[float], label: Spell, step: float) -> Axis:
    ticks = tuple(Tick(axis.place(value), label(value, step)) for value in values)
    return Axis(axis.low, axis.high, axis.log, ticks)
