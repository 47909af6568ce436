"""Modules that are their input plus branches, by the operators alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from tersenet.graph.channels import ChannelGraph
from tersenet.graph.residual import Range, Way, ranges, ways
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import Inputs, Trace, repeatable, undisturbed

_ANY: Range = (-float("inf"), float("inf"))


@dataclass(frozen=True)
class Block:
    """A module with one tensor in and one of the same shape out, which is the sum of the first and of branches.

    name: of the module. parameters: how many numbers it learns. ends: the parameters that make its branches zero, so
    that it is the identity. reason: why it cannot go; None if it can. values: 0 if it gives that
    tensor alone; n if a tuple of n, whose others are None.
    """

    name: str
    parameters: int
    ends: frozenset[str]
    reason: str | None
    values: int = 0


def units(found: Sequence[Block]) -> list[Block]:
    """One of each that are nested: the inner ones if they hold most of the outer's parameters, else the outer. An inner
    one in a branch of the outer is none of them."""
    outer = [block for block in found if not any(within(block.name, other.name) for other in found)]
    chosen = []
    for block in outer:
        nested = (other for other in found if within(other.name, block.name))
        inner = units([other for other in nested if block.reason is not None or other.ends <= block.ends])
        held = sum(other.parameters for other in inner)
        shell = held == block.parameters if len(inner) == 1 else 2 * held > block.parameters
        chosen += inner if shell else [block]
    return chosen


def candidates(model: nn.Module, graph: ChannelGraph) -> tuple[Block, ...]:
    """By the operators alone, in the order in which the model computes."""
    trace = graph.flow.trace
    called = _calls(trace)
    clips = ranges(trace)
    times = Counter(id(model.get_submodule(path)) for path, _ in called)
    found: dict[str, Block] = {}
    for path, inside in called:
        module = model.get_submodule(path)
        way = _around(model, module, trace, inside, clips)
        if way is not None:
            size = sum(parameter.numel() for parameter in module.parameters())
            reason = _obstacle(model, path, trace, set(inside), way, times[id(module)])
            found.setdefault(path, Block(path, size, way.ends, reason))
    given = _given(model, graph.inputs, found)
    return tuple(replace(block, values=given[name]) for name, block in found.items() if name in given)


def _given(model: nn.Module, inputs: Inputs, names: Iterable[str]) -> dict[str, int]:
    """`Block.values` of modules; those that give more than one tensor are left out."""
    found: dict[str, int] = {}

    def look(name: str, output: Any) -> None:
        values = output if type(output) is tuple else (output,)
        if isinstance(values[0], torch.Tensor) and all(value is None for value in values[1:]) and len(values) <= 16:
            found[name] = len(values) if type(output) is tuple else 0

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda module, given, output, name=name: look(name, output))
        for name in names
    ]
    try:
        with undisturbed(model), repeatable(model):
            model(*inputs[0], **inputs[1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def within(name: str, outer: str) -> bool:
    """Whether the module `name` is in `outer`."""
    return name.startswith(f"{outer}.")


def related(name: str, other: str) -> bool:
    """Whether one module is in the other."""
    return within(name, other) or within(other, name)


def _calls(trace: Trace) -> list[tuple[str, list[Node]]]:
    """Path and operators of each call of each module, in order."""
    found: dict[str, tuple[str, list[Node]]] = {}
    for node in trace.nodes:
        if node.op == "call_function":
            for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
                found.setdefault(key, (re.sub(r"@\d+$", "", path), []))[1].append(node)
    return [(path, nodes) for path, nodes in found.values() if path]


def _around(
    model: nn.Module, module: nn.Module, trace: Trace, nodes: Sequence[Node], clips: Mapping[Node, Range]
) -> Way | None:
    """How the one output of a module's operators is its input plus branches, if it is."""
    inside = set(nodes)
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    own = {id(parameter) for parameter in module.parameters() if parameter.is_floating_point()}
    if len(outputs) != 1 or not isinstance(outputs[0].meta.get("val"), torch.Tensor) or not own:
        return None
    tensors = tensors_of(model)
    learned = [name for name in trace.tensors.values() if name in tensors and id(tensors[name]) in own]
    given = dict.fromkeys(value for node in nodes for value in node.all_input_nodes if value not in inside)
    for source in given:
        if source.name not in trace.tensors and _like(source, outputs[0]):
            way = ways(trace, nodes, source, learned, clips.get(source, _ANY)).get(outputs[0])
            if way is not None and way.ends:
                return way
    return None


def _like(one: Node, other: Node) -> bool:
    a, b = one.meta.get("val"), other.meta.get("val")
    both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return both and a.shape == b.shape and a.dtype == b.dtype  # type: ignore[union-attr]


def _obstacle(model: nn.Module, path: str, trace: Trace, inside: set[Node], way: Way, times: int) -> str | None:
    """Why a block cannot go, by the operators alone."""
    if way.blocked is not None:
        return way.blocked
    if times > 1:
        return f"the model calls it {times} times"
    formed = [name for name, _ in model.get_submodule(path).named_parameters() if "parametrizations." in name]
    if formed:
        return f"'{path}.{formed[0]}' has a form already; blocks are removed before weights are masked or quantized"
    tensors = tensors_of(model)
    ends = {id(tensors[name]) for name in way.ends}
    for node in trace.nodes:
        name = trace.tensors.get(node.name, "")
        if name in tensors and id(tensors[name]) in ends and any(user not in inside for user in node.users):
            return f"'{name}' is used outside of it too"
    return None
