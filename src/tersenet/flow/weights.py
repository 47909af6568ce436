"""The plain tensors of a model, whatever forms they are held in, and what they look like."""

from __future__ import annotations

import torch
from torch import nn

from tersenet.core.record import Histogram
from tersenet.forms import plain_state


def plain_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every entry of the state once, under its plain name, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in plain_state(model).items()}


def nonzero(model: nn.Module) -> int:
    """How many weights differ from zero: of all that is trained, not of statistics that layers keep."""
    kept = {name for name, _ in model.named_buffers()}
    return sum(int(torch.count_nonzero(tensor)) for name, tensor in plain_state(model).items() if name not in kept)


def counts(tensor: torch.Tensor) -> tuple[int, int]:
    """How many entries differ from zero, and how many values there are, zero included."""
    return int(torch.count_nonzero(tensor)), int(torch.unique(tensor).numel())


def lines(tensor: torch.Tensor) -> tuple[int, int] | tuple[None, None]:
    """How many rows and columns of the tensor as a matrix [dimension 0, all others] have an entry other than zero; None
    for vectors and scalars."""
    if tensor.ndim < 2:
        return None, None
    alive = tensor.flatten(1) != 0
    return int(alive.any(1).sum()), int(alive.any(0).sum())


def histogram(tensor: torch.Tensor, like: torch.Tensor | None = None, bins: int = 60) -> Histogram | None:
    """Counts of the finite entries over the range of `like` (or of itself), widened to hold them all; None for integers
    and where there is nothing to count."""
    values = tensor.double().flatten()
    values = values[values.isfinite()]
    if not tensor.is_floating_point() or values.numel() == 0:
        return None
    span = values if like is None else torch.cat([values, like.double().flatten()])
    span = span[span.isfinite()]
    low, high = float(span.min()), float(span.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    nonzero = values[values != 0]
    found = torch.histc(nonzero, bins, low, high)
    return Histogram(
        low=low, high=high, counts=tuple(int(n) for n in found), zeros=int(values.numel() - nonzero.numel())
    )
