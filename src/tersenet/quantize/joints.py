"""Joints of a model: channels that one layer makes and others read, with functions between through which a positive
scale passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from tersenet.graph import ChannelGraph
from tersenet.graph.axes import Axis, Dim, positions
from tersenet.graph.flow import Contraction, Flow
from tersenet.graph.trace import bound, operator
from tersenet.graph.uses import uses

NORMS = {"layer_norm", "rms_norm"}

LAYERS = {"linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))}

HOMOGENEOUS = {
    *("relu", "leaky_relu", "prelu", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (2, 3)),
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose"),
    *("contiguous", "clone", "detach", "alias", "to", "_to_copy", "getitem", "mean", "sum", "mul", "div"),
}
"""f(s·x) = s·f(x) for s > 0 of each channel, as long as only x is a tensor (or the slopes of PReLU); dropout is off."""

CONSTANT = HOMOGENEOUS - {"avg_pool1d", "avg_pool2d", "avg_pool3d", "sum", "mul", "div"}
"""Those with f(x + c) = f(x) + c where x and x + c are above zero."""

OUTPUT = "they are an output of the model"


class Blocked(Exception):  # noqa: N818  # no error: it says why there is no joint
    """Why channels cannot be scaled: 'they …'."""


@dataclass(frozen=True, eq=False)
class Side:
    """One weight at a joint, and the bias of its layer. elements: (units, n), the indices along `dim` that belong to
    each channel."""

    weight: str
    bias: str | None
    dim: int
    elements: torch.Tensor

    def ranges(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Largest magnitude of each channel, [units]."""
        others = [dim for dim in range(magnitudes.ndim) if dim != self.dim]
        return magnitudes.amax(others)[self.elements].amax(1)

    def spread(self, scales: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """A scale for each channel, so that it broadcasts over the weight."""
        along = torch.ones(weight.shape[self.dim], dtype=scales.dtype)
        along[self.elements] = scales[:, None].expand(self.elements.shape)
        shape = [-1 if dim == self.dim else 1 for dim in range(weight.ndim)]
        return along.reshape(shape).to(weight.device)


@dataclass(frozen=True, eq=False)
class Joint:
    """Rows of the maker divided by s, its bias too, and columns of the readers times s change nothing.

    obstacle: why a constant added to a channel does not reach the readers' outputs as one; None if it does.
    """

    maker: Side
    readers: tuple[Side, ...]
    obstacle: str | None

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.maker, *self.readers)


def joints(graph: ChannelGraph, model: nn.Module, norms: bool = False) -> tuple[list[Joint], dict[str, str]]:
    """Joints in the order in which the model computes, and for weights that make no joint the reason.

    model: the one that was exported, without forms. norms: those that layer norms make too.
    """
    found: list[Joint] = []
    blocked: dict[str, str] = {}
    users = uses(graph, model)
    for node, weight, bias in _makers(graph.flow, norms):
        try:
            found.append(_joint(graph.flow, node, weight, bias, users))
        except Blocked as reason:
            blocked[weight] = str(reason)
    return found, blocked


def _makers(flow: Flow, norms: bool) -> Iterator[tuple[Node, str, str | None]]:
    """Operator, weight and bias."""
    layers = {contraction.node: contraction for contraction in flow.contractions}
    for node in flow.trace.nodes:
        if node in layers and operator(node) in LAYERS:
            yield node, layers[node].weight, layers[node].bias
        elif norms and node.op == "call_function" and operator(node) in NORMS:
            weight, bias = (flow.parameter(bound(node).get(key)) for key in ("weight", "bias"))
            if weight is not None and len(flow.tensors[weight]) == 1:
                yield node, weight, bias


def _joint(flow: Flow, maker: Node, weight: str, bias: str | None, users: Mapping[str, int]) -> Joint:
    if users[weight] > 1 or (bias is not None and users[bias] > 1):
        raise Blocked("the layer is used in several places")
    reading, obstacle = _readers(flow, maker)
    if not reading:
        raise Blocked("no layer reads them")
    dim = next(dim for dim in range(2) if flow.roles.get((weight, dim)) in ("out", "scale"))
    pieces = list(positions(flow.tensors[weight][dim]))
    if len(pieces) != 1 or pieces[0][1].shape[1] != 1:
        raise Blocked("they hang together in groups" if pieces else "there is one alone")
    axis, elements = pieces[0]
    readers = [_reader(flow, reader, axis, users) for reader in reading]
    return Joint(Side(weight, bias, dim, torch.from_numpy(elements)), tuple(readers), obstacle)


def _readers(flow: Flow, maker: Node) -> tuple[list[Contraction], str | None]:
    """The layers that read what `maker` gives, and what constants do not pass on the way. Raises Blocked where
    something else reads it."""
    layers = {
        contraction.node: contraction for contraction in flow.contractions if operator(contraction.node) in LAYERS
    }
    found: list[Contraction] = []
    obstacle = None
    waiting = [maker]
    while waiting:
        value = waiting.pop()
        for user in value.users:
            if user in layers and bound(user)["input"] is value and user.all_input_nodes.count(value) == 1:
                found.append(layers[user])
                obstacle = obstacle or (None if layers[user].plain else f"{operator(user)} pads them with zeros")
            elif user.op == "output":
                raise Blocked(OUTPUT)
            elif _homogeneous(user, value):
                waiting.append(user)
                obstacle = obstacle or (None if operator(user) in CONSTANT else f"{operator(user)} reads them")
            else:
                raise Blocked(f"{operator(user)}, which reads them, is not positively homogeneous")
    return found, obstacle


def _homogeneous(node: Node, value: Node) -> bool:
    name = operator(node)
    alone = node.all_input_nodes == [value] or name == "prelu"
    return name in HOMOGENEOUS and alone and node.args[0] is value


def _reader(flow: Flow, reader: Contraction, axis: Axis, users: Mapping[str, int]) -> Side:
    if users[reader.weight] > 1:
        raise Blocked("a layer that reads them is used in several places")
    dim = 0 if reader.groups > 1 else reader.dim  # a convolution with a filter for each channel
    dims: Dim = flow.tensors[reader.weight][dim]
    elements = next((elements for leaf, elements in positions(dims) if leaf is axis), None)
    if elements is None:
        raise Blocked("a layer that reads them does not keep them apart")
    return Side(reader.weight, reader.bias, dim, torch.from_numpy(elements))
