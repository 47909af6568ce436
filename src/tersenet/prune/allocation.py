"""How many units of each group go, and which: the lowest scores, within what each group must keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Scores = Mapping[str, np.ndarray]
"""Group → score of each unit, float64."""

Counts = dict[str, int]
"""Group → how many units go."""


@dataclass(frozen=True)
class Widths:
    """What the number of units left may be.

    originals: group → units before anything was pruned, on which shares are taken.
    share: of these, at least so many stay, and never less than one. multiple: units left are a multiple of it (rounded
    up, so that less goes), or all.
    """

    originals: Mapping[str, int]
    share: float = 0.0
    multiple: int = 1

    def least(self, name: str) -> int:
        return max(1, int(np.ceil(self.share * self.originals[name] - 1e-9)))

    def gone(self, name: str, units: int, keep: float) -> int:
        """How many of `units` go for about `keep` to stay."""
        wanted = max(round(keep), self.least(name))
        return max(units - -(-wanted // self.multiple) * self.multiple, 0)


def by_share(scores: Scores, widths: Widths, ratio: Mapping[str, float]) -> Counts:
    """`ratio` of each group's original units are gone afterwards (what went before counts)."""
    return {
        name: widths.gone(name, len(found), widths.originals[name] - round(ratio[name] * widths.originals[name]))
        for name, found in scores.items()
    }


def by_threshold(scores: Scores, widths: Widths, threshold: Mapping[str, float]) -> Counts:
    """Units with a lower score go."""
    return {
        name: widths.gone(name, len(found), int((found >= threshold[name]).sum())) for name, found in scores.items()
    }


def together(scores: Scores, widths: Widths, gone: int) -> Counts:
    """The `gone` lowest scores of all groups go; what a group must keep is passed over for the next higher score."""
    rows = [(score, place, name) for name, found in scores.items() for place, score in enumerate(np.sort(found))]
    allowed = {name: max(len(found) - widths.least(name), 0) for name, found in scores.items()}
    open_ = [(score, name) for score, place, name in rows if place < allowed[name]]
    lowest = sorted(open_, key=lambda row: row[0])[:gone]  # stable: of equal scores the earlier group
    counts = dict.fromkeys(scores, 0)
    for _, name in lowest:
        counts[name] += 1
    return {name: widths.gone(name, len(found), len(found) - counts[name]) for name, found in scores.items()}


def within(budget: float, most: int, counts: Callable[[int], Counts], cost: Callable[[Counts], float]) -> Counts:
    """The smallest step of 0…`most`, by bisection, whose counts cost at most `budget`; the last if none does.

    Raises nothing; `cost` must not grow with the step.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if cost(counts(middle)) <= budget:
            high = middle
        else:
            low = middle + 1
    return counts(high)


def lowest(scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` units with the lowest scores, ascending; of equal scores the later go."""
    order = np.lexsort((-np.arange(len(scores)), scores))
    return np.sort(order[:count])


def normalised(scores: Scores, by: str) -> Scores:
    """Scores of each group over their mean or Euclidean norm ('mean', 'l2'), by which those of different groups become
    comparable (Molchanov et al. 2017, arXiv 1611.06440, §2.2: l2). Groups whose mean or norm is zero stay."""
    return {name: found / (_scale(found, by) or 1.0) for name, found in scores.items()}


def _scale(scores: np.ndarray, by: str) -> float:
    return float(np.abs(scores).mean() if by == "mean" else np.linalg.norm(scores))
