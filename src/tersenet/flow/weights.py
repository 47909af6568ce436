"""The plain tensors of a model, whatever forms they are held in, and what they look like."""

from __future__ import annotations

import torch
from torch import nn

from tersenet.core.record import Histogram
from tersenet.forms import plain_state


def plain_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every entry of the state once, under its plain name, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in plain_state(model).items()}


def counts(tensor: torch.Tensor) -> tuple[int, int]:
    """How many entries differ from zero, and how many values there are, zero included."""
    return int(torch.count_nonzero(tensor)), int(torch.unique(tensor).numel())


def histogram(tensor: torch.Tensor, like: torch.Tensor | None = None, bins: int = 60) -> Histogram | None:
    """Counts over the range of `like` (or of itself), widened to hold all of it; None for integers and empty ones."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    values = tensor.double().flatten()
    span = values if like is None else torch.cat([values, like.double().flatten()])
    low, high = float(span.min()), float(span.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    nonzero = values[values != 0]
    found = torch.histc(nonzero, bins, low, high)
    return Histogram(
        low=low, high=high, counts=tuple(int(n) for n in found), zeros=int(values.numel() - nonzero.numel())
    )
