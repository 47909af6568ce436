"""Operators that treat every element alike: their tensors correspond element by element, after broadcasting."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from tersenet.graph.axes import Dim, fixed
from tersenet.graph.flow import Dims, Flow, rule, shape


@rule(
    *("elementwise", "masked_fill", "where", "hardswish", "gelu", "silu", "mish", "hardtanh", "hardsigmoid"),
    *("softplus", "elu", "selu", "celu", "leaky_relu", "relu6", "log_sigmoid", "softsign", "type_as", "expand_as"),
    *(
        "__and__",
        "__or__",
        "__xor__",
        "__lshift__",
        "__rshift__",
        "nan_to_num",
        "clamp",
        "clip",
        "copy",
        "rsub",
        "addcmul",
        "addcdiv",
        "lerp",
        "square",
        "bernoulli",
    ),
)
def elementwise(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    return broadcast(flow, node, [value for value in node.all_input_nodes if flow.dims.get(value) is not None])


@rule("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "contiguous", "clone", "detach", "alias")
def same(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """One tensor goes through unchanged in shape."""
    return flow.of(node.args[0])


@rule("to", "_to_copy", "lift_fresh_copy", "fill", "zero", "zeros_like", "ones_like", "full_like", "empty_like")
def same_shape(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    return flow.of(node.args[0])


@rule("rand_like", "randn_like", "normal", "rrelu", "uniform", "view_as_real_copy")
def random_like(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """Random numbers of the same shape: what is drawn depends on how many are drawn, so the size must stay."""
    flow.pin(flow.of(node.args[0]), node, "draws random numbers for it")
    return flow.of(node.args[0])


@rule("prelu")
def prelu(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """x (N, C, …) and slopes (C,) or (1,)."""
    dims, slope = flow.of(args["self"]), flow.of(args["weight"])
    if len(dims) > 1 and slope:
        flow.couple(dims[1], slope[0], node)
        flow.role(args["weight"], 0, "direct")
    return dims


@rule("glu")
def glu(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """The first half of a dimension, gated by the second."""
    dims = list(flow.of(args["self"]))
    index = args["dim"] % len(dims)
    first, second = flow.cut(dims[index], shape(args["self"])[index] // 2, node)
    flow.couple(first, second, node)
    return [*dims[:index], first, *dims[index + 1 :]]


def broadcast(flow: Flow, node: Node, values: list[Node]) -> Dims:
    """Dimensions of an element-wise result: aligned from the right, sizes of 1 stretched."""
    result: Dims = []
    sizes = shape(node) if isinstance(node.meta.get("val"), torch.Tensor) else ()
    for back, size in enumerate(reversed(sizes), 1):
        own = [(flow.of(v)[-back], v) for v in values if len(flow.of(v)) >= back and shape(v)[-back] == size]
        dims: list[Dim] = [dim for dim, _ in own if dim]
        for dim in dims[1:]:
            flow.couple(dims[0], dim, node)
        result.append(dims[0] if dims else fixed(size, "not channels"))
    if result:
        for value in values:
            for index in range(len(flow.of(value))):
                flow.role(value, index, "direct")
    return result[::-1]
