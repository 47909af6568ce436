"""Criteria: a score for every entry of a weight. The highest scores are kept."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tersenet.core.registry import Registry

Criterion = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""(weight of any shape, CPU generator) → scores of the same shape; it must not change the weight."""

CRITERIA: Registry[Criterion] = Registry("criterion")


@CRITERIA.register("magnitude")
def magnitude(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """|w| (Han et al. 2015, arXiv 1506.02626, §3)."""
    return weight.abs()


@CRITERIA.register("square")
def square(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """w², in float64 so that no small weight becomes zero; ranks like |w|, splices with margins on the square."""
    return weight.double().square()


@CRITERIA.register("random")
def random(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Uniform noise: a control that knows nothing of the weight."""
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)


@CRITERIA.register("smallest_kept")
def smallest_kept(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """−|w|: a control that must do worse than `random` if magnitude means anything."""
    return -weight.abs()
