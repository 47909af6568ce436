"""Grids on what modules hand on or are given as a whole, so that sums and layers behind them are of whole numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from tersenet.core.change import CHANGES
from tersenet.core.errors import ModelError
from tersenet.forms.inputs import InputGrid

OUTPUT, BLOCK = "output_grid", "block_grid"
"""What the grid of a module's output, and that of its first input, is called in it."""


def install(module: nn.Module, child: str, grid: nn.Module) -> RemovableHandle:
    """From now on `module` rounds its output (child `OUTPUT`) or its first input (child `BLOCK`), whatever reads it."""
    module.add_module(child, grid)
    if child == OUTPUT:
        return module.register_forward_hook(_round_output)
    return module.register_forward_pre_hook(_round_first)


def _round_output(module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
    return module._modules[OUTPUT](output)  # type: ignore[misc]


def _round_first(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = inputs
    return (module._modules[BLOCK](first), *others)  # type: ignore[misc]


def allows(module: nn.Module) -> bool:
    """A container computes with all its children, in which a grid would be one more."""
    return not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict | InputGrid)


def _put(model: nn.Module, path: str, options: Mapping[str, int], child: str) -> None:
    """`path` is that of the grid, the module's and the child's name; its step is among the file's tensors."""
    name, _, last = path.rpartition(".")
    known = dict(model.named_modules()).get(name)
    if last != child or not name or known is None or not allows(known) or hasattr(known, child):
        raise ModelError(f"the file rounds values at '{name}', which this model does not have: it is another")
    if set(options) != {"low", "levels"}:
        raise ModelError(f"the file rounds values at '{name}' with options that make no grid")
    grid = InputGrid(1.0, options["low"], options["levels"])
    device = next((tensor.device for tensor in model.parameters()), None)
    install(known, child, grid.to(device))


@CHANGES.register("output_grid")
def put_output_grid(model: nn.Module, path: str, options: Mapping[str, int]) -> None:
    _put(model, path, options, OUTPUT)


@CHANGES.register("block_grid")
def put_block_grid(model: nn.Module, path: str, options: Mapping[str, int]) -> None:
    _put(model, path, options, BLOCK)
