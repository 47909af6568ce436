"""Channels that have become constant: what they add to the next layer is added to its bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from tersenet.graph.channels import ChannelGraph, Group
from tersenet.graph.flow import Contraction
from tersenet.graph.slices import Choice, gone, tensors_of
from tersenet.graph.trace import Inputs, Trace, bound, operator, repeatable

SAME = 1e-5
"""How much a channel may vary, relative to its value, and still be called constant: sums are rounded."""


@dataclass(frozen=True)
class Fold:
    """Add `amount` to the tensor `target`: the constants of channels that go, times the weights that read them."""

    target: str
    amount: torch.Tensor


@dataclass(frozen=True)
class Constants:
    """folds: what is exact. dropped: weight → elements of its input dimension whose channels were not constant, or
    cannot be folded exactly (a convolution that pads with zeros; no bias to take it); they are masked there too.
    worst: the largest constant so dropped."""

    folds: tuple[Fold, ...]
    dropped: dict[tuple[str, int], np.ndarray]
    worst: float


def constants(graph: ChannelGraph, model: nn.Module, choice: Choice, samples: Sequence[Inputs]) -> Constants:
    """Look at what the chosen channels are once their own weights are zero (they are, in `model`)."""
    leaving = gone(choice)
    readers = [c for c in graph.flow.contractions if c.dim in leaving.get(c.weight, {})]
    watch = _Watch(graph.flow.trace, model, {c.node: c for c in readers})
    with repeatable(model):
        for inputs in samples:  # one alone would make everything constant that has a single position
            watch.run_on(inputs)
    state = tensors_of(model)
    folds: list[Fold] = []
    dropped: dict[tuple[str, int], np.ndarray] = {}
    worst = 0.0
    shared = _shared(graph)
    for reader in readers:
        elements = leaving[reader.weight][reader.dim]
        low, high = watch.seen[reader.node]
        values = (low + high) / 2
        steady = high - low <= SAME * high.abs()
        channels = _channels(reader, elements, state[reader.weight].shape[reader.dim])
        target = None if reader.weight in shared else _target(graph.flow.trace, reader, shared)
        constant = values[channels]
        fine = bool(steady[channels].all())
        if fine and bool((constant == 0).all()):
            continue
        if fine and reader.plain and target is not None:
            folds.append(Fold(target[0], target[1] * _amount(reader, state[reader.weight], values, channels)))
            continue
        dropped[reader.weight, reader.dim] = elements
        worst = max(worst, float(constant.abs().max()))
    return Constants(tuple(folds), dropped, worst)


class _Watch(Interpreter):
    """Runs the exported graph and notes, for every reader, which of its input channels are constant, and at what."""

    def __init__(self, trace: Trace, model: nn.Module, readers: Mapping[Node, Contraction]) -> None:
        super().__init__(trace.module)
        self.trace, self.readers, self.state = trace, readers, tensors_of(model)
        self.seen: dict[Node, tuple[torch.Tensor, torch.Tensor]] = {}

    def run_on(self, inputs: Inputs) -> None:
        given = iter(pytree.tree_leaves(inputs))
        values: list[Any] = []
        for node in self.trace.nodes:
            if node.op == "placeholder":
                name = self.trace.tensors.get(node.name)
                constant = self.trace.constants.get(node.name)
                values.append(self.state[name] if name else constant if constant is not None else next(given))
        self.run(*values)

    def run_node(self, n: Node) -> Any:
        if n in self.readers:
            value = self.fetch_args_kwargs_from_env(n)[0]
            place = 1 if operator(n) in ("addmm", "addbmm", "baddbmm") else 0
            flat = value[place].movedim(-self.readers[n].channels, 0).flatten(1)
            low, high = flat.amin(1), flat.amax(1)
            before = self.seen.get(n, (low, high))
            self.seen[n] = (torch.minimum(low, before[0]), torch.maximum(high, before[1]))
        return super().run_node(n)


def _channels(reader: Contraction, elements: np.ndarray, size: int) -> np.ndarray:
    """Input channels that belong to the elements of the weight's input dimension: one in each group."""
    if reader.dim == 0:  # transposed convolutions and x · W: the dimension holds all channels
        return elements
    return (elements[None, :] + size * np.arange(reader.groups)[:, None]).ravel()


def _amount(reader: Contraction, weight: torch.Tensor, values: torch.Tensor, channels: np.ndarray) -> torch.Tensor:
    """Σ over the channels of constant × weight, for each output: shape (outputs,)."""
    constant = torch.zeros_like(values)
    constant[channels] = values[channels]
    flat = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    if reader.dim == 0:
        return constant @ flat
    rows = flat.reshape(reader.groups, -1, flat.shape[1])  # (g, outputs of a group, inputs of a group)
    return torch.einsum("goi,gi->go", rows, constant.reshape(reader.groups, -1)).reshape(-1)


def _target(trace: Trace, reader: Contraction, shared: set[str]) -> tuple[str, float] | None:
    """Where a constant can go: the layer's bias, or the running mean of a norm that alone reads it (negated)."""
    if reader.bias is not None:
        return None if reader.bias in shared else (reader.bias, 1.0)
    users = list(reader.node.users)
    if len(users) == 1 and operator(users[0]) == "batch_norm":
        args = bound(users[0])
        mean = args.get("running_mean")
        name = trace.tensors.get(mean.name) if isinstance(mean, Node) and not args.get("training") else None
        if name is not None and name not in shared:
            return name, -1.0
    return None


def _shared(graph: ChannelGraph) -> set[str]:
    """Tensors that several operators read: a change for one would change the others."""
    placeholders = [node for node in graph.flow.trace.nodes if node.op == "placeholder"]
    return {
        graph.flow.trace.tensors[n.name]
        for n in placeholders
        if n.name in graph.flow.trace.tensors and len(n.users) > 1
    }


__all__ = ["Constants", "Fold", "Group", "constants"]
