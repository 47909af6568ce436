"""The channel graph: which channels hang together, and why some cannot go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from tersenet.core.discover import import_files
from tersenet.graph.axes import Axis, leaves, positions
from tersenet.graph.flow import Flow, follow
from tersenet.graph.trace import Inputs, trace

import_files("tersenet.graph.rules")


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of a parameter or buffer in which a group's units lie.

    elements: shape (units, n): the indices along `dim` that belong to each unit.
    role: out (makes the channel), in (reads it), scale, shift, statistic (of a norm), or direct.
    """

    tensor: str
    dim: int
    elements: np.ndarray
    role: str


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that only go together: removing unit u takes the elements of u from every member.

    reason: why no unit of it can go; None if they can.
    """

    name: str
    units: int
    members: tuple[Member, ...]
    reason: str | None
    axis: Axis = field(repr=False)

    @property
    def prunable(self) -> bool:
        return self.reason is None

    def by_role(self, *roles: str) -> Iterator[Member]:
        """Members of these roles."""
        return (member for member in self.members if member.role in roles)

    @property
    def width(self) -> int:
        """Elements of the first member that go with one unit: 1 for a channel, the head size for a head."""
        return int(self.members[0].elements.shape[1])


class ChannelGraph:
    """The groups of channels of a model.

    Args:
        model: any module that `torch.export` can follow; it is left as it is.
        inputs: an example input: a tensor, a tuple of arguments, or a dict of keyword arguments.

    Raises:
        ModelError: the model cannot be exported.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.inputs: Inputs = as_inputs(inputs)
        self.flow: Flow = follow(model, trace(model, self.inputs))
        self.groups: tuple[Group, ...] = tuple(_groups(self.flow, model))
        unread = _unread(self.flow, model)
        self.trains_apart: bool = any(name in unread for name, _ in model.named_parameters())
        """Whether there are parameters that no operator reads in eval mode, as those of auxiliary heads."""

    @property
    def unknown(self) -> Mapping[str, list[str]]:
        """Operators without a rule → the places where they are called."""
        return self.flow.unknown

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __getitem__(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)

    def refuse(self, group: Group, reason: str) -> None:
        """From now on `group` is not prunable, for this reason."""
        group.axis.reason = reason
        renewed = Group(group.name, group.units, group.members, reason, group.axis)
        self.groups = tuple(renewed if other is group else other for other in self.groups)


def as_inputs(inputs: Any) -> Inputs:
    """(args, kwargs) of a call from a tensor, a tuple of arguments, a dict, or such a pair."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, dict):
        return (), inputs
    if isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], tuple) and isinstance(inputs[1], dict):
        return inputs
    return tuple(inputs), {}


def _groups(flow: Flow, model: nn.Module) -> Iterator[Group]:
    members: dict[Axis, dict[tuple[str, int], list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    names = {id(tensor): name for name, tensor in _named(model)}  # one of the names of a tied tensor
    for name, tensor in _named(model):
        if names[id(tensor)] != name:
            continue
        for index, dim in enumerate(flow.tensors[name]):
            if not any(True for _ in leaves(dim)):
                continue
            for leaf, elements in positions(dim):
                members[leaf][name, index].append(elements)
    unread = _unread(flow, model)
    stored = model.state_dict(keep_vars=True).keys()
    taken: dict[str, int] = defaultdict(int)
    for axis, places in sorted(members.items(), key=lambda entry: entry[0].number):
        rows = [
            Member(name, dim, np.concatenate(elements, axis=1), _role(flow, model, name, dim))
            for (name, dim), elements in places.items()
        ]
        if all(row.role in ("kernel", "row") for row in rows):
            continue  # no channels: the size of a kernel, the rows of a look-up
        rows.sort(key=lambda member: _ORDER.index(member.role))
        reason = axis.reason
        if reason is None and all(name in unread for name, _ in places):
            reason = "no operator uses it"
        if reason is None and (lost := [name for name, _ in places if name not in stored]):
            reason = f"the buffer '{lost[0]}' would shrink, but it is not persistent, and so in no file"
        if reason is None and axis.size == 1:
            reason = "it has a single unit"
        base = rows[0].tensor.rpartition(".")[0] or rows[0].tensor
        if rows[0].role not in ("out", "scale") or (axis.size == 1 and axis.reason):  # not one that shrank to it
            base = f"{rows[0].tensor}[{rows[0].dim}]"
        taken[base] += 1
        yield Group(base if taken[base] == 1 else f"{base}#{taken[base]}", axis.size, tuple(rows), reason, axis)


def _unread(flow: Flow, model: nn.Module) -> set[str]:
    """Tensors that no operator reads; the export lists them all the same."""
    named = dict(_named(model))
    read = {id(named[flow.trace.tensors[n.name]]) for n in flow.trace.nodes if n.name in flow.trace.tensors and n.users}
    return {name for name, tensor in named.items() if id(tensor) not in read}


_ORDER = ("out", "scale", "shift", "statistic", "direct", "in", "kernel", "row")


def _named(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _role(flow: Flow, model: nn.Module, name: str, dim: int) -> str:
    role = flow.roles.get((name, dim))
    if role is None:  # noted under another name of the same tensor
        own = next(tensor for other, tensor in _named(model) if other == name)
        twins = [other for other, tensor in _named(model) if tensor is own]
        role = next((flow.roles[twin, dim] for twin in twins if (twin, dim) in flow.roles), "direct")
    return role
