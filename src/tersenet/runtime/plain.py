"""A model as runtimes take it: plain weights, and rounded inputs in operators that they know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.copying import copied
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.forms import decode, detach, form_of, weights
from tersenet.forms.form import table
from tersenet.forms.inputs import InputGrid
from tersenet.forms.signs import along
from tersenet.graph.program import StoredModel

Inputs = tuple[torch.Tensor, ...]

BYTE = 256
"""Numbers that eight bits tell apart."""

OPERATORS = 21
"""The version of ONNX's QuantizeLinear that is written."""


@dataclass(frozen=True)
class Levels:
    """A weight of few values. values: float32 [...]. numbers: the same shape, integers of which each row's values are
    multiples, or None where the form has none. bits: that hold a number."""

    name: str
    values: np.ndarray
    numbers: np.ndarray | None
    bits: int


def plain(model: nn.Module, *, operators: bool = False) -> nn.Module:
    """A copy on the CPU, in eval mode, that computes the same without forms; the files of other tools know none.

    operators: inputs of at most 8 bits are rounded by ONNX's QuantizeLinear and DequantizeLinear. Such a copy can be
        exported to ONNX and nothing else.
    """
    copy = copied(model).cpu().eval().requires_grad_(False)
    for target in weights(copy):
        if form_of(target) is not None:
            detach(target)
    for module in list(copy.modules()):
        for name, grid in list(module.named_children()):
            if isinstance(grid, InputGrid):
                setattr(module, name, _rounding(grid, operators))
    if isinstance(copy, StoredModel):
        for number, grid in stored_grids(copy).items():
            rounding, (_, (input, *_), _) = _rounding(grid, operators), copy.calls[number]
            copy.add_module(f"input_grid_{number}", rounding)
            copy.calls[number] = (rounding, [input], {})
    return copy


def rounds_inputs(model: nn.Module) -> bool:
    """Whether some are rounded to steps."""
    grids = any(isinstance(module, InputGrid) for module in model.modules())
    return grids or (isinstance(model, StoredModel) and bool(stored_grids(model)))


def stored_grids(model: StoredModel) -> dict[int, InputGrid]:
    """By the number of the call that rounds. Raises ArtifactError where such a call is none that we have written."""
    found = {}
    for number, (call, arguments, _) in enumerate(model.calls):
        if call is torch.ops.tersenet.input_grid.default:
            try:
                _, step, low, levels = arguments
                found[number] = InputGrid(model.held(step["r"]).item(), low, levels)
            except (TypeError, ValueError, KeyError, RuntimeError, ModelError) as error:
                raise ArtifactError(f"malformed: the stored graph rounds an input in no way known: {error}") from None
    return found


def _rounding(grid: InputGrid, operators: bool) -> nn.Module:
    return _Operators(grid) if operators and grid.levels <= BYTE else _Rounded(grid)


def levels_of(codes: Mapping[str, Code]) -> list[Levels]:
    """Of float32 weights those that take few values: at most 256 in a row (uniform, ternary, binary) or in all."""
    found = []
    for name, code in codes.items():
        if code.dtype != "float32" or code.form not in ("uniform", "ternary", "binary", "shared"):
            continue
        symbols = next(iter(code.streams.values()))
        bits = max(symbols.alphabet - 1, 1).bit_length()
        if bits <= 8:
            values = decode(code)
            found.append(Levels(name, values.numpy(), _numbers(code, values), bits))
    return found


def _numbers(code: Code, values: torch.Tensor) -> np.ndarray | None:
    if code.form == "shared":
        return None
    if code.form != "uniform":
        return values.sign().to(torch.int32).numpy()
    axis = code.options["axis"]
    step = along(table(code, "codebook").float(), values.ndim, None if axis == -1 else axis)
    return (values / step).round().to(torch.int32).numpy()


def outputs_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """The tensors that `model` gives; raises ModelError where it gives anything else."""
    try:
        with torch.no_grad():
            found = model(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ModelError(f"the model cannot compute with inputs of {shapes(inputs)}: {lines[0]}") from None
    found = tuple(found) if isinstance(found, tuple | list) else (found,)
    if not all(isinstance(one, torch.Tensor) for one in found):
        raise ModelError("the model gives something other than tensors, which no runtime can")
    return found


def shapes(tensors: Inputs) -> str:
    """For people: '1×3×32×32 float32 and 1×5 int64'."""
    return " and ".join(
        f"{'×'.join(map(str, one.shape)) or 'scalar'} {str(one.dtype).removeprefix('torch.')}" for one in tensors
    )


class _Rounded(nn.Module):
    """What `InputGrid` computes, in operators that every exporter knows."""

    step: torch.Tensor

    def __init__(self, grid: InputGrid) -> None:
        super().__init__()
        self.low, self.high = grid.low, grid.low + grid.levels - 1
        step = grid.step.detach().abs().clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("step", step.clone(), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return (input / self.step).clamp(self.low, self.high).round() * self.step


class _Operators(_Rounded):
    """The same by a pair of operators, which runtimes take together with the layer that follows."""

    zero: torch.Tensor

    def __init__(self, grid: InputGrid) -> None:
        super().__init__(grid)
        self.step = self.step.reshape(())  # ONNX Runtime adds integers of scalar steps alone
        self.whole = grid.levels == BYTE
        self.least, self.most = self.low * float(self.step), self.high * float(self.step)
        self.register_buffer("zero", torch.tensor(-grid.low, dtype=torch.uint8), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.whole:  # the operator itself stops at what eight bits hold
            input = input.clamp(self.least, self.most)
        grid = (self.step, self.zero)
        numbers = torch.onnx.ops.symbolic(
            "QuantizeLinear", (input, *grid), {}, dtype=torch.uint8, shape=input.shape, version=OPERATORS
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (numbers, *grid), {}, dtype=input.dtype, shape=input.shape, version=OPERATORS
        )
