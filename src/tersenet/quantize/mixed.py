"""How many bits each weight gets, where a budget of bytes or of bits is given for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.artifact.tensor import encode_code
from tersenet.core.config import Config
from tersenet.core.errors import RecipeError
from tersenet.core.stage import RunContext
from tersenet.forms import Form, Target, latent_of, weight_of
from tersenet.train.gradients import fisher

Batches = Sequence[tuple[tuple[torch.Tensor, ...], torch.Tensor]]

BUCKETS = 2**14
"""Into which a budget is divided where it is larger: sizes are then rounded up to so many parts of it."""


class Mixed(Config):
    """Bits for each weight so that the harm is least within a budget.

    The harm of a weight's rounding is taken alone, with all others as they are, and harms add up: Dong et al. 2020,
    "HAWQ-V2", arXiv 1911.03852 (there the mean trace of the Hessian times ‖Δw‖², here the diagonal of the Fisher
    matrix). The choice among all combinations is exact for budgets of up to 16384 bytes, and then to that part of them.
    """

    bytes: int | None = Field(None, gt=0, description="of the coded weights in the file, with their steps")
    average: float | None = Field(None, gt=0, le=16, description="in place of bytes: bits per weight before coding")
    choices: tuple[int, ...] = Field((2, 3, 4, 6, 8), min_length=1, description="bits among which each weight's are")
    by: Literal["fisher", "loss", "error"] = Field(
        "fisher", description="½ Σ F Δw² on data, the loss measured with one weight rounded, or Σ Δw²"
    )

    @field_validator("choices")
    @classmethod
    def _choices(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if wrong := [bits for bits in value if not 1 <= bits <= 16]:
            raise ValueError(f"{wrong[0]} is no number of bits from 1 to 16")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _one_budget(self) -> Mixed:
        if (self.bytes is None) == (self.average is None):
            raise ValueError("needs either 'bytes', of the coded weights, or 'average', bits per weight")
        return self


@dataclass(frozen=True)
class Candidate:
    """What `bits` for one weight cost in bytes, and do to the loss."""

    bits: int
    size: float
    harm: float


def mixed_bits(
    options: Mixed,
    model: nn.Module,
    targets: Sequence[Target],
    form: Callable[[Target, int], Form],
    batches: Batches,
    context: RunContext,
) -> dict[str, int]:
    """{weight: bits}. `form` makes the form that a weight would get.

    Raises RecipeError where even the fewest bits everywhere are above the budget.
    """
    harm = _harm(options.by, model, targets, batches, context)
    listed = [[_candidate(options, target, bits, form, harm) for bits in options.choices] for target in targets]
    total = sum(target.slots[0].weight.numel() for target in targets)
    budget = options.bytes if options.average is None else options.average * total / 8
    assert budget is not None
    chosen = allocate(listed, budget)
    if chosen is None:
        least = sum(min(candidate.size for candidate in row) for row in listed)
        told = f"bytes: {ceil(least)}" if options.average is None else f"average: {8 * least / total:.3g}"
        raise RecipeError(f"mixed: the budget is below what the fewest bits take everywhere; give at least {told}")
    bits = {target.name: candidate.bits for target, candidate in zip(targets, chosen, strict=True)}
    used = sum(candidate.size for candidate in chosen)
    context.note(
        f"bits within {budget:,.0f} bytes, of which {used:,.0f} are used: "
        + ", ".join(f"{name} {width}" for name, width in bits.items())
    )
    return bits


def allocate(listed: Sequence[Sequence[Candidate]], budget: float) -> list[Candidate] | None:
    """One candidate of each row, so that the sum of harms is least and that of sizes at most `budget`; of equals the
    smaller. None if there is no such choice.

    The knapsack problem with a choice from each row, by dynamic programming over the budget.
    """
    parts = min(int(budget), BUCKETS)
    unit = budget / max(parts, 1)
    best, picks = np.zeros(parts + 1), []
    for row in listed:
        found, pick = np.full(parts + 1, np.inf), np.zeros(parts + 1, np.int64)
        for number, candidate in enumerate(row):
            cost = ceil(candidate.size / unit - 1e-9)
            if cost > parts:
                continue
            with_it = np.full(parts + 1, np.inf)
            with_it[cost:] = best[: parts + 1 - cost] + candidate.harm
            better = with_it < found
            found, pick = np.where(better, with_it, found), np.where(better, number, pick)
        best = found
        picks.append(pick)
    if not np.isfinite(best[parts]):
        return None
    left, chosen = int(np.argmin(best)), []
    for row, pick in zip(reversed(listed), reversed(picks), strict=True):
        chosen.append(row[pick[left]])
        left -= ceil(chosen[-1].size / unit - 1e-9)
    return chosen[::-1]


def _candidate(
    options: Mixed,
    target: Target,
    bits: int,
    form: Callable[[Target, int], Form],
    harm: Callable[[Target, torch.Tensor], float],
) -> Candidate:
    weight = weight_of(target)
    made = form(target, bits).to(weight.device)
    with torch.no_grad():
        rounded = made(weight)
    if options.average is not None:
        return Candidate(bits, bits * weight.numel() / 8, harm(target, rounded))
    entry = encode_code(target.name, made.encode(weight), "auto")
    size = sum(len(stream.payload) for stream in entry.streams)
    size += sum(len(plane.payload) for table in entry.tables for plane in table.planes)
    return Candidate(bits, size, harm(target, rounded))


def _harm(
    by: str, model: nn.Module, targets: Sequence[Target], batches: Batches, context: RunContext
) -> Callable[[Target, torch.Tensor], float]:
    """(target, rounded weight) → what it does to the loss."""
    if by == "loss":
        return _measured(model, batches, context)
    weights: Mapping[str, Any] = dict.fromkeys((target.name for target in targets), 1.0)
    if by == "fisher":
        found = fisher(model, [latent_of(target) for target in targets], batches, context.loss)
        weights = {target.name: 0.5 * values for target, values in zip(targets, found, strict=True)}

    def harm(target: Target, rounded: torch.Tensor) -> float:
        return float((weights[target.name] * (rounded - weight_of(target)).square()).sum(dtype=torch.float64))

    return harm


def _measured(model: nn.Module, batches: Batches, context: RunContext) -> Callable[[Target, torch.Tensor], float]:
    """Mean loss over the batches with that one weight rounded, above what it is without."""

    @torch.no_grad()
    def loss() -> float:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            return float(sum(float(context.loss(model, batch)) for batch in batches)) / len(batches)
        finally:
            for module, mode in modes:
                module.training = mode

    dense = loss()

    def harm(target: Target, rounded: torch.Tensor) -> float:
        latent = latent_of(target)
        before = latent.detach().clone()
        try:
            with torch.no_grad():
                latent.copy_(rounded)
            return loss() - dense
        finally:
            with torch.no_grad():
                latent.copy_(before)

    return harm
