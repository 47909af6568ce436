"""Searches along one number: for the least of a cost with one valley, and for the price at which a budget is kept."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

CLOSE = 0.99
"""A price is right when this share of the budget is used."""

TRIALS = 10
"""Prices that are tried between one that keeps the budget and one that does not."""

RAISE = 8.0
"""The price is raised by this factor until the budget is kept, or lowered until it is not."""


def least_near(cost: Callable[[int], float], start: int, strides: tuple[int, ...]) -> int:
    """The whole number at which `cost` is least, walking downhill from `start` with one stride after the other."""
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            known[place] = cost(place)
        return known[place]

    here = start
    for stride in strides:
        way = stride if at(here + stride) < at(here) else -stride
        while at(here + way) < at(here):
            here += way
    return here


def price_within(budget: int, first: float, size: Callable[[float], int]) -> float:
    """A price at which `size`, which falls as the price rises, is at most `budget` and near it.

    By the secant between the two prices nearest to it on either side, both axes in logarithms, and by halves where that
    is slow. `size` must come below the budget somewhere.
    """
    kept: tuple[float, int] | None = None
    over: tuple[float, int] | None = None
    price, trials = first, 0
    while trials < TRIALS:
        found = price, size(price)
        kept, over = (found, over) if found[1] <= budget else (kept, found)
        if kept is not None and (kept[1] >= CLOSE * budget or kept[0] < 1e-300):
            break
        if kept is None or over is None:
            price = price * RAISE if kept is None else price / RAISE
            trials += kept is not None
            continue
        trials += 1
        price = _between(budget, kept, over, halve=trials % 3 == 0)
    assert kept is not None
    return kept[0]


def _between(budget: int, kept: tuple[float, int], over: tuple[float, int], *, halve: bool) -> float:
    low, high = log(over[0]), log(kept[0])
    aim = log(over[1] / (budget * (1 + CLOSE) / 2)) / log(over[1] / max(kept[1], 1))
    share = 0.5 if halve else min(max(aim, 0.05), 0.95)
    return exp(low + share * (high - low))
