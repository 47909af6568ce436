"""What each filter gives on data: its activations, and the batch norm that scales it. Layers may call functions
(`F.relu`) as well as modules, so outputs are followed from call to call and not from module to module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from tersenet.core.errors import RecipeError
from tersenet.forms import Target

NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm")
PASSING = (
    *NORMS,
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "contiguous", "clone"),
    *("add", "add_", "__add__", "__radd__", "__iadd__", "to", "float"),
)
"""Functions after which a channel is still the same channel, on its way to its activation function."""

ACTIVATIONS = (
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "threshold", "hardtanh", "clamp"),
    *("clamp_", "clamp_min", "clamp_min_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish", "softplus"),
    *("hardswish", "hardsigmoid", "hardshrink", "softshrink", "sigmoid", "sigmoid_", "tanh", "tanh_"),
)


@dataclass
class Mark:
    """One call of a layer: its weight, where its output has the filters, and whether an activation has been counted."""

    weight: str
    axis: int
    counted: bool = False


@dataclass
class Tally:
    """Of one weight's filters: zeros and Σ|a| of each [filters], and how many values each has given."""

    zeros: torch.Tensor
    total: torch.Tensor
    count: int = 0

    @classmethod
    def of(cls, activation: torch.Tensor, axis: int) -> Tally:
        values = activation.detach().movedim(axis, 0).flatten(1)
        return cls((values == 0).sum(1).double(), values.abs().sum(1, dtype=torch.float64), values.shape[1])

    def add(self, other: Tally) -> Tally:
        return Tally(self.zeros + other.zeros, self.total + other.total, self.count + other.count)


class Activations:
    """Tallies over all batches given, of the first activation function that a layer's outputs reach (through norms,
    dropout and sums), or of the outputs themselves where they reach none.

    note: told which layers' own outputs are counted, since no activation function follows.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[Target],
        batches: Iterable[Sequence[torch.Tensor]],
        note: Callable[[str], None],
    ) -> None:
        self.tallies: dict[str, Tally] = {}
        self.gammas: dict[str, torch.Tensor] = {}
        plain: dict[str, Tally] = {}
        with ExitStack() as stack:
            for target in targets:
                for module, attribute in target.owners:
                    if attribute == "weight":
                        hook = module.register_forward_hook(partial(_begin, target.name, _axis(module), plain))
                        stack.callback(hook.remove)
            with torch.no_grad(), _Following(self.tallies, self.gammas):
                for inputs in batches:
                    model(*inputs)
        for name in plain.keys() - self.tallies.keys():
            self.tallies[name] = plain[name]
            note(f"{name}: no activation function follows its layer, so that the layer's own outputs are counted")

    def zeros(self, target: Target) -> torch.Tensor:
        tally = self._tally(target)
        return tally.zeros / tally.count

    def mean(self, target: Target) -> torch.Tensor:
        tally = self._tally(target)
        return tally.total / tally.count

    def gamma(self, target: Target) -> torch.Tensor:
        if target.name not in self.gammas:
            raise RecipeError(
                f"criterion 'bn_scale' finds no batch norm with a scale after {target.name}; leave it out with 'ignore'"
            )
        return self.gammas[target.name]

    def _tally(self, target: Target) -> Tally:
        if target.name not in self.tallies:
            raise RecipeError(
                f"criteria on activations need a layer with one output tensor, which {target.name} ({target.kind}) has "
                "not; leave it out with 'ignore'"
            )
        return self.tallies[target.name]


class _Following(TorchFunctionMode):
    """Marks on tensors say which calls of which layers they come from."""

    def __init__(self, tallies: dict[str, Tally], gammas: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.tallies, self.gammas = tallies, gammas

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        marks = [mark for arg in (*args, *kwargs.values()) for mark in _marks(arg)]
        shapes = {arg.shape for arg in args if _marks(arg)}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if not marks or not isinstance(result, torch.Tensor) or result.shape not in shapes:
            return result
        if name in ACTIVATIONS:
            for mark in marks:
                self._count(mark, result)
            result._marks = []  # type: ignore[attr-defined]  # an in-place function returns what was marked
        elif name in PASSING:
            if name == "batch_norm" and (gamma := args[3] if len(args) > 3 else kwargs.get("weight")) is not None:
                for mark in marks:
                    self.gammas.setdefault(mark.weight, gamma.detach())
            result._marks = marks  # type: ignore[attr-defined]
        return result

    def _count(self, mark: Mark, values: torch.Tensor) -> None:
        if not mark.counted:
            _add(self.tallies, mark, values)
        mark.counted = True


def _begin(
    name: str, axis: int, plain: dict[str, Tally], module: nn.Module, inputs: Any, output: Any
) -> torch.Tensor | None:
    """A layer's output begins to be followed."""
    if isinstance(output, torch.Tensor):
        mark = Mark(name, axis)
        _add(plain, mark, output)
        output._marks = [mark]  # type: ignore[attr-defined]
    return None


def _add(tallies: dict[str, Tally], mark: Mark, values: torch.Tensor) -> None:
    tally = Tally.of(values, mark.axis)
    tallies[mark.weight] = tallies[mark.weight].add(tally) if mark.weight in tallies else tally


def _axis(module: nn.Module) -> int:
    """Where the output has its filters."""
    return -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1


def _marks(value: Any) -> list[Mark]:
    return getattr(value, "_marks", []) if isinstance(value, torch.Tensor) else []
