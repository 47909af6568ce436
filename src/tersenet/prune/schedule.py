"""How sparsity grows over time."""

from __future__ import annotations

from dataclasses import dataclass


def geometric(sparsity: float, iteration: int, iterations: int) -> float:
    """Sparsity after iteration 1…k when each keeps the same share: 1 − (1 − s)^(i/k)."""
    return sparsity if iteration == iterations else 1 - (1 - sparsity) ** (iteration / iterations)


def cubic(progress: float, initial: float, final: float) -> float:
    """s_f + (s_i − s_f)(1 − p)³ for progress p in [0, 1] (Zhu & Gupta 2017, arXiv 1710.01878, eq. 1)."""
    p = min(max(progress, 0.0), 1.0)
    return final + (initial - final) * (1 - p) ** 3


@dataclass(frozen=True)
class Window:
    """The part of a budget in which masks change: from `begin` to `end` (shares), every `frequency` steps."""

    begin: float
    end: float
    frequency: int

    def first(self, steps: int) -> int:
        return round(self.begin * steps)

    def last(self, steps: int) -> int:
        return round(self.end * steps)

    def due(self, step: int, steps: int) -> bool:
        """Whether masks change after `step`; always at the window's last step."""
        first, last = self.first(steps), self.last(steps)
        return step == last or (first <= step < last and (step - first) % self.frequency == 0)

    def progress(self, step: int, steps: int) -> float:
        """0 at the first step of the window, 1 at its last."""
        first, last = self.first(steps), self.last(steps)
        return 1.0 if step >= last else max(step - first, 0) / (last - first)
