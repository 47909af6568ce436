"""What a model costs once units have gone, computed from sizes alone: no model is changed or run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import nn
from torch.fx import Node

from tersenet.graph.axes import Axis, Dim
from tersenet.graph.channels import ChannelGraph, Group
from tersenet.graph.slices import new_size
from tersenet.graph.trace import bound, operator

Counts = Mapping[Group, int]
"""Group → how many of its units go."""


def macs(graph: ChannelGraph, gone: Counts) -> int:
    """Multiply-accumulates of the linear layers, convolutions, matrix products and attention of the graph on its
    example input (all examples of it) after `gone`. Like `measure.count_macs`, everything else counts zero."""
    size = _Sizes(graph, gone)
    return sum(PRODUCTS[operator(node)](size, node) for node in graph.flow.trace.nodes if operator(node) in PRODUCTS)


def parameters(graph: ChannelGraph, model: nn.Module, gone: Counts) -> int:
    """Entries of all parameters of `model`, of which `graph` is, after `gone`; a shared one counts once."""
    size = _Sizes(graph, gone)
    return sum(prod(map(size.dim, graph.flow.tensors[name])) for name, _ in model.named_parameters())


class _Sizes:
    """Sizes of dimensions after some units of groups have gone."""

    def __init__(self, graph: ChannelGraph, gone: Counts) -> None:
        self.dims = graph.flow.dims
        self.lost: dict[Axis, int] = {group.axis.root(): count for group, count in gone.items()}

    def dim(self, dim: Dim) -> int:
        return new_size(dim, self.lost)

    def of(self, node: Any) -> list[int]:
        """Shape of a tensor argument or result."""
        return [self.dim(dim) for dim in self.dims[node]]


def _convolution(size: _Sizes, node: Node) -> int:
    return prod(size.of(node)) * prod(size.of(bound(node)["weight"])[1:])


def _transposed(size: _Sizes, node: Node) -> int:
    arguments = bound(node)
    return prod(size.of(arguments["input"])) * prod(size.of(arguments["weight"])[1:])


def _either(size: _Sizes, node: Node) -> int:
    return (_transposed if bound(node)["transposed"] else _convolution)(size, node)


def _product(size: _Sizes, node: Node) -> int:
    """Every entry of the result is a sum over the first factor's last dimension."""
    arguments = bound(node)
    first = next(arguments[name] for name in ("mat1", "batch1", "input", "self", "vec") if name in arguments)
    return prod(size.of(node)) * size.of(first)[-1]


def _attention(size: _Sizes, node: Node) -> int:
    arguments = bound(node)
    query, key, value = (size.of(arguments[name]) for name in ("query", "key", "value"))
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


PRODUCTS: dict[str, Callable[[_Sizes, Node], int]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("convolution", "_convolution"), _either),
    **dict.fromkeys(("linear", "addmm", "baddbmm", "mm", "bmm", "matmul", "mv", "dot", "__matmul__"), _product),
    "scaled_dot_product_attention": _attention,
}
