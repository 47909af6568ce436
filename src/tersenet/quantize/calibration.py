"""What linear layers and convolutions read and give on calibration data, in the order in which the model computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tersenet.forms import Target
from tersenet.forms.slots import type_of
from tersenet.graph.trace import repeatable, undisturbed
from tersenet.train.patches import patches

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that give Y = X Wᵀ + b; classes derived from them too, if they keep the forward."""

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight of plain layers, and how often these are called in one forward.

    norms: of those layers, the batch norm that reads what the layer gives, and nothing else.
    """

    target: Target
    calls: int
    norms: Mapping[nn.Module, _BatchNorm]

    @property
    def modules(self) -> list[nn.Module]:
        return [module for module, _ in self.target.owners]

    @property
    def parts(self) -> int:
        """Of a grouped convolution; else 1."""
        return _parts(self.target.module)

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, or a tensor of its shape, as (parts, outputs, columns)."""
        return weight.reshape(self.parts, len(weight) // self.parts, -1)


@dataclass(frozen=True, eq=False)
class Call:
    """number: of this call of the layer, over all batches. x: what `module` reads. y: what it gives."""

    layer: Layer
    number: int
    module: nn.Module
    x: torch.Tensor
    y: torch.Tensor

    @property
    def outputs(self) -> torch.Tensor:
        """What it gives, (positions, channels), positions in row-major order."""
        axis = -1 - len(self.module.kernel_size) if isinstance(self.module, _ConvNd) else -1
        return self.y.movedim(axis, -1).reshape(-1, self.y.shape[axis])

    def rows_given(self, at: torch.Tensor) -> torch.Tensor:
        """What it gives at positions `at`, without its bias: (parts, rows, outputs)."""
        rows, bias = self.outputs[at], self.module.bias
        rows = rows if bias is None else rows - bias.detach()  # type: ignore[operator]
        return rows.reshape(len(at), self.layer.parts, -1).movedim(1, 0)

    def rows_read(self, at: torch.Tensor) -> torch.Tensor:
        """What it multiplies there with rows of its weight: (parts, rows, columns)."""
        module, x = self.module, self.x
        if not isinstance(module, _ConvNd):
            return x.reshape(-1, x.shape[-1])[at][None]
        padding: Any = module.padding
        if module.padding_mode != "zeros":
            x, padding = F.pad(x, module._reversed_padding_repeated_twice, module.padding_mode), 0
        found = patches(x, module.kernel_size, module.stride, padding, module.dilation, at)
        return found.reshape(len(at), self.layer.parts, -1).movedim(1, 0)


class Calibration:
    """Runs of `model`, as it is by then, on the same batches (at least one).

    layers: those of `targets` that are plain and are called, the first called first.
    """

    def __init__(self, model: nn.Module, targets: Iterable[Target], batches: Sequence[Inputs]) -> None:
        self.model, self.batches = model, batches
        self.layers = self._called([target for target in targets if _plain(target)])

    def watch(self, layers: Sequence[Layer], look: Callable[[Call], None]) -> None:
        """Have every call of these layers looked at. For a single layer no forward goes further than its last call."""
        watchers = [_Watcher(layer, look, ends=len(layers) == 1) for layer in layers]
        with undisturbed(self.model), repeatable(self.model), ExitStack() as stack:
            for watcher in watchers:
                for module in watcher.layer.modules:
                    stack.callback(module.register_forward_hook(watcher, with_kwargs=True).remove)
            for inputs in self.batches:
                try:
                    self.model(*inputs)
                except _Reached:
                    continue

    def _called(self, targets: Sequence[Target]) -> list[Layer]:
        """One batch tells which are called, how often and in which order, and which batch norms follow."""
        calls: dict[Target, int] = {}
        norms: dict[nn.Module, _BatchNorm] = {}
        with undisturbed(self.model), repeatable(self.model), _following(self.model, targets, calls, norms):
            self.model(*self.batches[0])
        users = Counter(norms.values())
        own = {module: norm for module, norm in norms.items() if users[norm] == 1}
        return [
            Layer(target, count, {module: own[module] for module, _ in target.owners if module in own})
            for target, count in calls.items()
        ]


class _Reached(BaseException):
    """A forward need not go on."""


class _Watcher:
    """A forward hook that has calls looked at and, if it `ends` forwards, ends them after the layer's last call."""

    def __init__(self, layer: Layer, look: Callable[[Call], None], ends: bool) -> None:
        self.layer, self.look, self.ends, self.number = layer, look, ends, 0

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> None:
        self.look(Call(self.layer, self.number, module, first_input(args, kwargs), output))
        self.number += 1
        if self.ends and self.number % self.layer.calls == 0:
            raise _Reached


def first_input(args: Any, kwargs: Any) -> torch.Tensor:
    """What a layer is given, as its hooks see it."""
    found: torch.Tensor = args[0] if args else kwargs["input"]
    return found


def _parts(module: nn.Module) -> int:
    return module.groups if isinstance(module, _ConvNd) else 1


def _plain(target: Target) -> bool:
    """Whether all layers that share the weight compute Y = X Wᵀ + b with it, in as many parts."""
    forwards = [cls.forward for cls in PLAIN]
    plain = all(
        name == "weight" and getattr(type_of(module), "forward", None) in forwards for module, name in target.owners
    )
    return plain and len({_parts(module) for module, _ in target.owners}) == 1


@contextmanager
def _following(
    model: nn.Module, targets: Sequence[Target], calls: dict[Target, int], norms: dict[nn.Module, _BatchNorm]
) -> Iterator[None]:
    """Within, calls are counted, and batch norms found that read what a layer has given."""
    by = {module: target for target in targets for module, _ in target.owners}
    given: dict[nn.Module, torch.Tensor] = {}

    def called(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        calls[by[module]] = calls.get(by[module], 0) + 1
        given[module] = output

    def normed(norm: nn.Module, args: Any, kwargs: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        for module, output in given.items():
            if first_input(args, kwargs) is output and norm.running_mean is not None:
                norms[module] = norm

    with ExitStack() as stack:
        for module in by:
            stack.callback(module.register_forward_hook(called).remove)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(normed, with_kwargs=True).remove)
        yield
