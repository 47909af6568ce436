"""Follow every dimension of every tensor through the operators of an exported model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from tersenet.graph.axes import Dim, cut, expand, fix, fixed, fresh, leaves, regroup, size_of, unify
from tersenet.graph.trace import Trace, bound, operator, place

Dims = list[Dim]

INPUT, OUTPUT = "it is an input of the model", "it is an output of the model"
"""Why the channels at both ends of every model stay."""


@dataclass(frozen=True)
class Contraction:
    """An operator that sums over channels: `weight` (a parameter's name) has them in its dimension `dim`.

    channels: index of the contracted dimension in the operator's input, counted from the end.
    groups: of a grouped convolution. plain: a constant input channel adds the same constant to every output element
    (false for a convolution that pads with zeros).
    """

    node: Node
    weight: str
    dim: int
    channels: int
    groups: int
    plain: bool
    bias: str | None


@dataclass
class Flow:
    """What is known so far: the dimensions of each node's value, and what happened on the way."""

    trace: Trace
    dims: dict[Node, Any] = field(default_factory=dict)  # Dims, or a list of Dims for several tensors, or None
    tensors: dict[str, Dims] = field(default_factory=dict)  # parameters and buffers by name
    roles: dict[tuple[str, int], str] = field(default_factory=dict)  # (tensor, dimension) → in, out, scale, shift, …
    contractions: list[Contraction] = field(default_factory=list)
    products: list[Dim] = field(default_factory=list)  # summed over in a product of two activations
    sizes: dict[Node, list[tuple[int, Dim]]] = field(default_factory=dict)  # integers given to an operator
    unknown: dict[str, list[str]] = field(default_factory=dict)  # operator → where

    def of(self, value: Any) -> Dims:
        """Dimensions of a tensor argument."""
        dims: Dims = self.dims[value]
        return dims

    def couple(self, one: Dim, other: Dim, node: Node) -> None:
        """Units of both dimensions correspond; sizes of 1 broadcast and couple nothing."""
        if one and other and one is not other:
            unify(one, other, f"{operator(node)} at {place(node)} pairs them in a way that no removal keeps")

    def pin(self, dims: Iterable[Dim], node: Node, why: str) -> None:
        """These dimensions must keep their size, since the operator of `node` … (`why` goes on the sentence)."""
        for dim in dims:
            if dim and any(leaf.reason is None for leaf in leaves(dim)):
                fix(dim, f"{operator(node)} at {place(node)} {why}")

    def regroup(self, dims: Sequence[Dim], sizes: Sequence[int], node: Node) -> Dims:
        """Row-major regrouping: what a reshape to `sizes` does."""
        if 0 in sizes:
            return constant(sizes)
        flat = tuple(axis for dim in dims for axis in dim)
        return regroup(flat, sizes, f"{operator(node)} at {place(node)} cuts across its units")

    def cut(self, dim: Dim, at: int, node: Node) -> tuple[Dim, Dim]:
        """`dim` before and from element `at` on; 0 and the size itself give a side without elements."""
        size = size_of(dim)
        if at <= 0:
            return fixed(0, "no elements"), dim
        if at >= size:
            return dim, fixed(0, "no elements")
        if is_fixed(dim):
            return constant([at])[0], constant([size - at])[0]
        return cut(expand(dim), at, f"{operator(node)} at {place(node)} cuts across its units")

    def origin(self, node: Any) -> tuple[str, list[int]] | None:
        """The parameter or buffer that a node gives, and the order of its dimensions after casts and transpositions."""
        turns: list[Node] = []
        while isinstance(node, Node) and node.op == "call_function" and operator(node) in (*_TURNS, *_CASTS):
            turns.append(node)
            node = node.args[0]
        name = self.trace.tensors.get(node.name) if isinstance(node, Node) else None
        if name is None or name not in self.tensors:
            return None
        order = list(range(len(self.tensors[name])))
        for turn in reversed(turns):
            if operator(turn) == "permute":
                order = [order[index] for index in _numbers(turn.args[1])]
            elif operator(turn) in _TURNS:
                one, other = _numbers(turn.args[1:3]) or (-2, -1)
                order[one], order[other] = order[other], order[one]
        return name, order

    def parameter(self, node: Any) -> str | None:
        """The name of the parameter or buffer that a node gives."""
        found = self.origin(node)
        return found[0] if found else None

    def role(self, value: Any, index: int, role: str) -> tuple[str, int] | None:
        """Note what dimension `index` of an argument is for, and where it lies, if the argument is a parameter."""
        found = self.origin(value)
        if found is None or not found[1]:
            return None
        name, order = found
        self.roles.setdefault((name, order[index]), role)
        return name, order[index]


_TURNS = {"permute", "t", "transpose", "swapaxes", "swapdims", "numpy_T", "mT"}
_CASTS = {"to", "_to_copy", "contiguous", "detach", "alias", "clone"}


def _numbers(argument: Any) -> list[int]:
    return [int(number) for number in argument]


def is_fixed(dim: Dim) -> bool:
    """Whether nothing in `dim` can change its size."""
    return all(leaf.reason is not None for leaf in leaves(dim))


def constant(sizes: Iterable[int], why: str = "not channels") -> Dims:
    """Dimensions of these sizes that hold no channels: batch, positions, constants."""
    return [fixed(int(size), why) for size in sizes]


def shape(node: Node) -> tuple[int, ...]:
    """Shape of a node's tensor."""
    return tuple(node.meta["val"].shape)


Rule = Callable[[Flow, Node, dict[str, Any]], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register how the dimensions of these operators' results follow from those of their arguments."""

    def add(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for the operator {name}")
            RULES[name] = function
        return function

    return add


def follow(model: nn.Module, trace: Trace) -> Flow:
    """Run every node of `trace` through its rule."""
    flow = Flow(trace)
    _tensors(flow, model)
    for node in trace.nodes:
        if node.op == "placeholder":
            flow.dims[node] = _placeholder(flow, node)
        elif node.op == "call_function":
            flow.dims[node] = _call(flow, node)
        elif node.op == "output":
            for value in node.all_input_nodes:
                _pin_all(flow.dims[value], OUTPUT)
        else:
            flow.dims[node] = None
    return flow


def _tensors(flow: Flow, model: nn.Module) -> None:
    """Fresh dimensions for every parameter and buffer; a tensor with two names has one set of them."""
    seen: dict[int, Dims] = {}
    entries = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in entries:
        flow.tensors[name] = seen.setdefault(id(tensor), [fresh(size) for size in tensor.shape])


def _placeholder(flow: Flow, node: Node) -> Any:
    name = flow.trace.tensors.get(node.name)
    if name is not None and name in flow.tensors:
        return flow.tensors[name]
    value = node.meta.get("val")
    return constant(value.shape, INPUT) if isinstance(value, torch.Tensor) else None


def _call(flow: Flow, node: Node) -> Any:
    if getattr(node.target, "__name__", "") == "getitem":
        values = flow.dims[node.args[0]]  # type: ignore[index]
        return values[int(str(node.args[1]))] if isinstance(values, list) else None
    if not isinstance(node.target, torch._ops.OpOverload):
        return _unknown(flow, node)
    if not _static(node):
        return _unknown(flow, node, "has a shape that depends on the data")
    name = operator(node)
    function = RULES.get(name)
    if function is None and torch.Tag.pointwise in node.target.tags:
        function = RULES["elementwise"]
    if function is None:
        return _unknown(flow, node) if _any_tensor(flow, node) else _constants(node)
    try:
        dims = function(flow, node, bound(node))
        _check(dims, node.meta.get("val"))
        return dims
    except Exception as error:  # a form of the operator that its rule does not foresee: then nothing is assumed
        return _unknown(flow, node, f"is called in a way the channel graph does not foresee ({error})")


def _check(dims: Any, value: Any) -> None:
    """The dimensions that a rule gives must measure what the tensor measures."""
    if isinstance(value, torch.Tensor):
        if [size_of(dim) for dim in dims] != list(value.shape):
            raise ValueError(f"its result has shape {list(value.shape)}, not {[size_of(dim) for dim in dims]}")
    elif isinstance(value, list | tuple):
        for own, tensor in zip(dims, value, strict=True):
            _check(own, tensor)


def _static(node: Node) -> bool:
    values = node.meta.get("val")
    tensors = [v for v in (values if isinstance(values, list | tuple) else [values]) if isinstance(v, torch.Tensor)]
    return all(isinstance(size, int) for tensor in tensors for size in tensor.shape)


def _any_tensor(flow: Flow, node: Node) -> bool:
    return any(flow.dims.get(value) is not None for value in node.all_input_nodes)


def _unknown(flow: Flow, node: Node, why: str = "is not known to the channel graph") -> Any:
    """Nothing is assumed of an operator without a rule: what goes in must keep its size."""
    for value in node.all_input_nodes:
        _pin_all(flow.dims.get(value), f"{operator(node)} at {place(node)} {why}")
    flow.unknown.setdefault(operator(node), []).append(place(node))
    return _constants(node)


def _constants(node: Node) -> Any:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return constant([size if isinstance(size, int) else 0 for size in value.shape])
    if isinstance(value, list | tuple):
        return [constant(v.shape) if isinstance(v, torch.Tensor) else None for v in value]
    return None


def _pin_all(dims: Any, reason: str) -> None:
    for entry in dims if isinstance(dims, list) else []:
        if isinstance(entry, tuple):
            fix(entry, reason)
        else:
            _pin_all(entry, reason)
