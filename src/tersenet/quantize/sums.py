"""Where a model adds images up or averages one, and which layers read the same value: found by watching it compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tersenet.forms.addends import BLOCK, OUTPUT, allows
from tersenet.graph.trace import undisturbed

ADDS = {"add", "add_", "__add__", "__radd__", "__iadd__"}

MEANS = {"mean", "avg_pool2d", "adaptive_avg_pool2d"}
"""A convolution before one gives floats unless its result is rounded, and some runtimes then compute it in floats."""

MOVES = {"pad", "__getitem__", "reshape", "view", "permute", "transpose", "contiguous"}
"""Functions whose results hold nothing but entries of their first argument, and zeros."""

IMAGE = 4
"""Dimensions from which on sums are rounded: sums of sequences are read by norms, which no runtime computes in
integers, and lose more by it."""

Value = tuple[int, int]
"""A tensor at work, and how often it has been changed in place."""


@dataclass(frozen=True)
class Points:
    """reads: layer → value. rounds: value that is added or averaged → (module, `OUTPUT` or `BLOCK`) at which it can be
    rounded for all that read it. lost: how many sums have an addend that no module hands on."""

    reads: Mapping[str, Value]
    rounds: Mapping[Value, tuple[str, str]]
    lost: int


def points(model: nn.Module, layers: Mapping[str, nn.Module], inputs: tuple[torch.Tensor, ...]) -> Points:
    """Of one pass over `inputs` in eval mode. Layers that are called several times read no one value."""
    watch = _Watch({id(module): name for name, module in model.named_modules() if "parametrizations" not in name})
    handles = [module.register_forward_pre_hook(watch.enter) for module in model.modules()]
    handles += [module.register_forward_hook(watch.leave) for module in model.modules()]
    try:
        with undisturbed(model), watch:
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    reads = {name: watch.given[name] for name in layers if watch.calls[name] == 1 and name in watch.given}
    rounds: dict[Value, tuple[str, str]] = {}
    lost = 0
    for addends in watch.sums:
        found = [(watch.source(value), watch.place(watch.source(value), within)) for value, within in addends]
        lost += any(place is None for _, place in found)
        if all(place is not None for _, place in found):
            rounds |= {value: place for value, place in found if place is not None}
    means = {watch.source(value): within for value, within in watch.means}
    averaged = {value: place for value, within in means.items() if (place := watch.place(value, within)) is not None}
    return Points(reads, averaged | rounds, lost)


@dataclass(eq=False)
class _Watch(TorchFunctionMode):
    """Notes, while the model computes, what modules are given and hand on, and what is added up where."""

    names: Mapping[int, str]
    calls: Counter[str] = field(default_factory=Counter)
    given: dict[str, Value] = field(default_factory=dict)
    made: dict[Value, list[str]] = field(default_factory=dict)
    moved: dict[Value, Value] = field(default_factory=dict)
    sums: list[list[tuple[Value, tuple[str, ...]]]] = field(default_factory=list)
    means: list[tuple[Value, tuple[str, ...]]] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)  # so that no other tensor takes the place of one in memory
    able: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        name = self.names.get(id(module), "")
        self.stack.append(name)
        self.calls[name] += 1
        if name and allows(module):
            self.able.add(name)
        if inputs and isinstance(inputs[0], torch.Tensor):
            self.given[name] = self.value(inputs[0])

    def leave(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        self.stack.pop()
        if isinstance(output, torch.Tensor):
            self.made.setdefault(self.value(output), []).append(self.names.get(id(module), ""))

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        before = [self.value(one) for one in args[:2] if isinstance(one, torch.Tensor)]
        images = len(before) == 2 and min(one.dim() for one in args[:2]) >= IMAGE
        result = function(*args, **(kwargs or {}))
        if name in ADDS and images and not (kwargs or {}).get("alpha"):
            self.sums.append([(value, tuple(self.stack)) for value in before])
        elif name in MEANS and before and args[0].dim() >= IMAGE:
            self.means.append((before[0], tuple(self.stack)))
        elif name in MOVES and before and isinstance(result, torch.Tensor):
            self.moved[self.value(result)] = before[0]
        return result

    def value(self, tensor: torch.Tensor) -> Value:
        self.kept.append(tensor)
        return id(tensor), tensor._version

    def source(self, value: Value) -> Value:
        """The value whose entries it holds."""
        while value not in self.made and self.moved.get(value, value) != value:
            value = self.moved[value]
        return value

    def place(self, value: Value, within: tuple[str, ...]) -> tuple[str, str] | None:
        """The module that hands the value on, the innermost; or the innermost that is given it and adds it up."""
        for child, names in ((OUTPUT, self.made.get(value, [])), (BLOCK, reversed(within))):
            for name in names:
                fits = child == OUTPUT or self.given.get(name) == value
                if fits and name in self.able and self.calls[name] == 1:
                    return name, child
        return None
