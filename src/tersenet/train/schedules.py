"""Learning rate over a budget, as a factor of its highest value."""

from __future__ import annotations

import math

from tersenet.core.training import Training


def rate_factor(training: Training, progress: float) -> float:
    """Factor in [0, 1] at `progress` in [0, 1) of the budget: a linear rise, then the schedule over what remains.

    cosine: ½(1 + cos πt) (Loshchilov & Hutter 2017, eq. 5 with one cycle); linear: 1 − t; step: gamma^(milestones
    passed); constant: 1.
    """
    if progress < training.warmup:
        return progress / training.warmup
    t = (progress - training.warmup) / (1 - training.warmup)
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t))
    if training.schedule == "linear":
        return 1 - t
    if training.schedule == "step":
        return float(training.gamma ** sum(progress >= milestone for milestone in training.milestones))
    return 1.0
