"""The layers that read channels of the graph: their weights as matrices, and samples of what they read and give."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from tersenet.graph import ChannelGraph
from tersenet.graph.flow import Contraction
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import Inputs, bound, operator
from tersenet.train.patches import patches

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution", "_convolution"}
PRODUCTS = {"linear", "mm", "matmul", "__matmul__", "addmm"}

Rows = dict[Node, torch.Tensor]
"""Of each operator, sampled rows: (parts, rows, columns) or (parts, rows, outputs)."""

Take = Callable[[dict[str, Any], Node, torch.Tensor, torch.Tensor], torch.Tensor]
At = Callable[[Node, int], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Reader:
    """One weight that reads channels, and all operators that compute with it.

    dim: the weight's dimension that is summed over. parts: of a grouped convolution. bias: the name of the bias, where
    it belongs to these operators alone.
    """

    weight: str
    dim: int
    nodes: tuple[Node, ...]
    parts: int
    bias: str | None

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as (parts, outputs, columns); the places of a kernel are the fastest columns."""
        rows = weight if self.dim == 1 else weight.mT
        return rows.reshape(self.parts, rows.shape[0] // self.parts, -1)

    def set(self, weight: torch.Tensor, matrix: torch.Tensor) -> None:
        """The reverse, in place."""
        weight.copy_(matrix.reshape(weight.shape) if self.dim == 1 else matrix[0].mT)

    def places(self, weight: torch.Tensor) -> int:
        """Columns for each element of the dimension that is summed over."""
        return weight[0, 0].numel() if self.dim == 1 else 1


def readers(graph: ChannelGraph, model: nn.Module) -> dict[str, Reader]:
    """Every weight of a linear layer or convolution that some operator sums over, in the order in which the model
    computes; without those that are used otherwise too."""
    first: dict[int, str] = {}
    named = {name: first.setdefault(id(tensor), name) for name, tensor in tensors_of(model).items()}
    found: dict[str, list[Contraction]] = {}
    for contraction in graph.flow.contractions:
        found.setdefault(named[contraction.weight], []).append(contraction)
    users = _users(graph, named)
    return {name: reader for name, uses in found.items() if (reader := _reader(name, uses, users, named)) is not None}


def _reader(
    name: str, uses: Sequence[Contraction], users: Mapping[str, set[Node]], named: Mapping[str, str]
) -> Reader | None:
    nodes = {use.node for use in uses}
    alike = len({(use.dim, use.groups) for use in uses}) == 1
    if not alike or users[name] != nodes or not all(_regular(node) for node in nodes):
        return None
    biases = {named[use.bias] if use.bias else None for use in uses}
    bias = next(iter(biases)) if len(biases) == 1 else None
    own = bias is not None and users[bias] == nodes
    return Reader(name, uses[0].dim, tuple(use.node for use in uses), uses[0].groups, bias if own else None)


def _regular(node: Node) -> bool:
    """Whether the operator is Y = X Wᵀ + b on rows of X."""
    args = bound(node)
    if operator(node) in CONVOLUTIONS:
        return not args.get("transposed")
    return operator(node) in PRODUCTS and args.get("alpha", 1) == 1 and args.get("beta", 1) == 1


def _users(graph: ChannelGraph, named: Mapping[str, str]) -> dict[str, set[Node]]:
    """Parameter → the operators that compute with it; turning it round is not yet computing."""
    found: dict[str, set[Node]] = {name: set() for name in named.values()}
    for node in graph.flow.trace.nodes:
        own = graph.flow.parameter(node) if node.op == "call_function" else None
        for value in node.all_input_nodes:
            name = graph.flow.parameter(value)
            if name is not None and name in named and own != name:
                found[named[name]].add(node)
    return found


class Sampler:
    """Reads what operators get and give at places that are drawn once.

    batches: inputs of the shape on which the graph was exported. samples: rows of each operator, over all batches.
    draw: random numbers for (operator, batch).
    """

    def __init__(
        self,
        graph: ChannelGraph,
        batches: Sequence[Inputs],
        samples: int,
        draw: Callable[[str, int], torch.Generator],
    ) -> None:
        self.graph, self.batches, self.draw = graph, batches, draw
        self.each = -(-samples // len(batches))

    def read(self, model: nn.Module, nodes: Collection[Node]) -> Rows:
        """What these operators read in `model`: (parts, rows, columns)."""
        return self._run(model, nodes, _inputs)

    def given(self, model: nn.Module, nodes: Collection[Node]) -> Rows:
        """What they give, without the bias: (parts, rows, outputs)."""
        return self._run(model, nodes, _outputs)

    @torch.no_grad()
    def _run(self, model: nn.Module, nodes: Collection[Node], take: Take) -> Rows:
        found: dict[Node, list[torch.Tensor]] = {node: [] for node in nodes}
        state = tensors_of(model)
        for number, inputs in enumerate(self.batches):
            probe = _Probe(self.graph, state, set(nodes), take, partial(self._at, number))
            for node, rows in probe.run_on(inputs).items():
                found[node].append(rows)
        return {node: torch.cat(rows, dim=1) for node, rows in found.items()}

    def _at(self, batch: int, node: Node, rows: int) -> torch.Tensor:
        if rows <= self.each:
            return torch.arange(rows)
        return torch.randperm(rows, generator=self.draw(node.name, batch))[: self.each]


class _Probe(Interpreter):
    """Runs the exported graph on other tensors and takes samples where asked."""

    def __init__(
        self, graph: ChannelGraph, state: Mapping[str, torch.Tensor], nodes: set[Node], take: Take, at: At
    ) -> None:
        super().__init__(graph.flow.trace.module)
        self.trace, self.state, self.nodes, self.take, self.at = graph.flow.trace, state, nodes, take, at
        self.found: Rows = {}

    def run_on(self, inputs: Inputs) -> Rows:
        given = iter(pytree.tree_leaves(inputs))
        self.run(*(self._value(node, given) for node in self.trace.nodes if node.op == "placeholder"))
        return self.found

    def _value(self, node: Node, given: Iterator[Any]) -> Any:
        name = self.trace.tensors.get(node.name)
        constant = self.trace.constants.get(node.name)
        return self.state[name] if name else constant if constant is not None else next(given)

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.nodes:
            names = [argument.name for argument in n.target._schema.arguments]  # type: ignore[union-attr]
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            values = {**bound(n), **dict(zip(names, args, strict=False)), **kwargs}
            kernel = values["weight"].ndim - 2 if operator(n) in CONVOLUTIONS else 0
            rows = result.numel() // result.shape[-1 - kernel]
            self.found[n] = self.take(values, n, result, self.at(n, rows).to(result.device))
        return result


def _inputs(values: dict[str, Any], node: Node, result: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    if operator(node) in CONVOLUTIONS:
        found = patches(
            values["input"],
            values["weight"].shape[2:],
            values["stride"],
            values["padding"],
            values["dilation"],
            at,
        )
        return found.reshape(len(at), values["groups"], -1).movedim(1, 0)
    x: torch.Tensor = next(values[name] for name in ("input", "mat1", "self") if name in values)
    return x.reshape(-1, x.shape[-1])[at][None]


def _outputs(values: dict[str, Any], node: Node, result: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    bias = values["self"] if operator(node) == "addmm" else values.get("bias")
    parts = 1
    if operator(node) in CONVOLUTIONS:
        result = result.movedim(-1 - (values["weight"].ndim - 2), -1)
        parts = values["groups"]
    linear = result if bias is None else result - bias
    rows: torch.Tensor = linear.reshape(-1, linear.shape[-1])[at]
    return rows.reshape(len(at), parts, -1).movedim(1, 0)
