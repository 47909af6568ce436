"""`InputGrid`: a layer computes with its input rounded to equal steps, as integer arithmetic would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tersenet.core.change import CHANGES
from tersenet.core.errors import ModelError
from tersenet.forms.uniform import OnGrid

CHILD = "input_grid"
"""What the grid is called in its layer."""

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers that runtimes compute in integers: those with one input and one weight."""

MOST_BITS = 16


class InputGrid(nn.Module):
    """step · round(clip(x / step, low, low + levels − 1)), with straight-through gradients and those of LSQ
    (`forms.uniform.OnGrid`).

    step: one number, float32; a parameter, which is frozen unless it is learned. The zero point of the grid is −low.
    """

    def __init__(self, step: float, low: int, levels: int, *, learned: bool = False) -> None:
        super().__init__()
        if not (2 <= levels <= 2**MOST_BITS and -levels < low <= 0):
            raise ModelError(f"a grid of {levels} numbers from {low} on holds no zero, or more than {MOST_BITS} bits")
        self.low, self.levels = low, levels
        self.step = nn.Parameter(torch.tensor([step], dtype=torch.float32), requires_grad=learned)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _on_grid(input, self.step, self.low, self.levels)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, low={self.low}"


def _on_grid(input: torch.Tensor, step: torch.Tensor, low: int, levels: int) -> torch.Tensor:
    lows = torch.full_like(step, low, requires_grad=False)
    steps = step.abs().clamp(min=torch.finfo(torch.float32).tiny)  # a learned one may have crossed zero
    features = input[:1].numel()  # of one example, however many there are (Esser et al., §2.2)
    rounded: torch.Tensor = OnGrid.apply(input, steps, lows, levels, None, features)  # type: ignore[no-untyped-call]
    return rounded


@torch.library.custom_op("tersenet::input_grid", mutates_args=())
def input_grid(input: torch.Tensor, step: torch.Tensor, low: int, levels: int) -> torch.Tensor:
    """What `InputGrid` computes as one operator, which a stored graph of operators names."""
    return _on_grid(input, step, low, levels)


@input_grid.register_fake
def _(input: torch.Tensor, step: torch.Tensor, low: int, levels: int) -> torch.Tensor:
    return torch.empty_like(input)


class _Operator(nn.Module):
    def __init__(self, grid: InputGrid) -> None:
        super().__init__()
        self.step, self.low, self.levels = grid.step, grid.low, grid.levels

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = input_grid(input, self.step, self.low, self.levels)
        return found


def as_operators(model: nn.Module) -> None:
    """Each `InputGrid` of `model` becomes one operator where the model is traced."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, InputGrid):
                setattr(module, name, _Operator(child))


def install(layer: nn.Module, grid: InputGrid) -> None:
    """From now on `layer` rounds what it is given."""
    layer.add_module(CHILD, grid.to(next(layer.parameters()).device))
    layer.register_forward_pre_hook(_round_input)


def _round_input(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = inputs
    return (getattr(layer, CHILD)(first), *others)


@CHANGES.register("input_grid")
def put_input_grid(model: nn.Module, path: str, options: Mapping[str, int]) -> None:
    """`path` is that of the grid, the layer's and `.input_grid`; its step is among the file's tensors."""
    layer, _, child = path.rpartition(".")
    known = dict(model.named_modules()).get(layer)
    if child != CHILD or not isinstance(known, LAYERS) or hasattr(known, CHILD):
        raise ModelError(f"the file rounds the input of '{layer}', which this model does not have: it is another")
    if set(options) != {"low", "levels"}:
        raise ModelError(f"the file rounds the input of '{layer}' with options that make no grid")
    install(known, InputGrid(1.0, options["low"], options["levels"]))
