"""Operators with weights: convolutions, products, look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from tersenet.graph.axes import Dim
from tersenet.graph.flow import Contraction, Dims, Flow, constant, rule, shape


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
def convolution(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """x (N, C, …), weight (C', C/g, …) → (N, C', …). The groups g are an axis of both C = g·I and C' = g·O."""
    if args.get("transposed"):
        made: Dims = transposed(flow, node, args)
        return made
    weight, dims = flow.of(args["weight"]), list(flow.of(args["input"]))
    kernel = len(weight) - 2
    place = len(dims) - kernel - 1
    groups = args["groups"]
    flow.pin(weight[2:], node, "is its kernel size")
    flow.pin(dims[place + 1 :], node, "slides over it")
    if groups == 1:
        flow.couple(dims[place], weight[1], node)
    else:
        own = flow.regroup([dims[place]], [groups, shape(args["weight"])[1]], node)
        made = flow.regroup([weight[0]], [groups, shape(args["weight"])[0] // groups], node)
        flow.couple(own[0], made[0], node)
        flow.couple(own[1], weight[1], node)
        flow.sizes[node] = [(groups, own[0])]
    padded = args.get("padding") not in (0, "valid") and any(p != 0 for p in _many(args.get("padding")))
    _roles(flow, node, args, 1, (kernel + 1, groups), not padded)
    return [*dims[:place], weight[0], *constant(shape(node)[place + 1 :])]


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """x (N, C, …), weight (C, C'/g, …) → (N, C', …)."""
    weight, dims = flow.of(args["weight"]), list(flow.of(args["input"]))
    kernel = len(weight) - 2
    place = len(dims) - kernel - 1
    groups = args["groups"]
    flow.pin(weight[2:], node, "is its kernel size")
    flow.pin(dims[place + 1 :], node, "slides over it")
    flow.couple(dims[place], weight[0], node)
    out: Dim = weight[1]
    if groups > 1:
        outer, _ = flow.regroup([dims[place]], [groups, shape(args["weight"])[0] // groups], node)
        flow.sizes[node] = [(groups, outer)]
        out = (*outer, *out)
    flow.role(args["weight"], 0, "in")
    flow.role(args["weight"], 1, "out")
    _kernel(flow, args["weight"])
    _bias(flow, node, args.get("bias"), out)
    _contraction(flow, node, args, (0, kernel + 1, groups), plain=False)
    return [*dims[:place], out, *constant(shape(node)[place + 1 :])]


@rule("linear")
def linear(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """x (…, C), weight (C', C) → (…, C')."""
    weight, dims = flow.of(args["weight"]), flow.of(args["input"])
    if len(weight) == 1:
        return contract(flow, node, args["input"], args["weight"])
    flow.couple(dims[-1], weight[1], node)
    _roles(flow, node, args, 1, (1, 1), True)
    return [*dims[:-1], weight[0]]


@rule("embedding")
def embedding(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """weight (V, C), indices (…) → (…, C); rows are found by their number, so V stays."""
    weight = flow.of(args["weight"])
    flow.pin([weight[0]], node, "finds its rows by their number")
    flow.role(args["weight"], 0, "row")
    flow.role(args["weight"], 1, "out")
    return [*flow.of(args["indices"]), weight[1]]


@rule("addmm", "baddbmm", "addbmm")
def addmm(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """self + mat1 · mat2."""
    one, other = (args[key] for key in list(args) if key in ("mat1", "mat2", "batch1", "batch2"))
    dims = contract(flow, node, one, other, args["self"])
    for own, made in zip(reversed(flow.of(args["self"])), reversed(dims), strict=False):
        flow.couple(own, made, node)
    _bias(flow, node, args["self"], dims[-1], couple=False)
    return dims


@rule("mm", "bmm", "matmul", "mv", "dot", "__matmul__")
def matmul(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    one, other = (args[key] for key in list(args)[:2])
    return contract(flow, node, one, other)


def contract(flow: Flow, node: Node, one: Node, other: Node, bias: Any = None) -> Dims:
    """(…, m, k) · (…, k, n) → (…, m, n), with the vector cases and broadcasting of torch.matmul."""
    left, right = list(flow.of(one)), list(flow.of(other))
    inner = -2 if len(right) > 1 else -1
    flow.couple(left[-1], right[inner], node)
    for value, place, free in ((one, -1, -2 if len(left) > 1 else None), (other, inner, -1 if inner == -2 else None)):
        where = flow.role(value, place, "in")
        if where and free is not None:
            flow.role(value, free, "out")
        if where and value is other and len(right) == 2:
            flow.contractions.append(Contraction(node, where[0], where[1], 1, 1, True, flow.parameter(bias)))
    if not any(flow.origin(value) for value in (one, other)):
        flow.products.append(left[-1])
    rows, columns = left[:-2], right[:-2]
    sizes = [list(shape(value)[:-2]) for value in (one, other)]
    batch: Dims = []
    for back in range(1, max(len(rows), len(columns)) + 1):
        both = [(d[-back], s[-back]) for d, s in ((rows, sizes[0]), (columns, sizes[1])) if len(d) >= back]
        dims = [dim for dim, size in both if size != 1]
        if len(dims) == 2:
            flow.couple(dims[0], dims[1], node)
        batch.append(dims[0] if dims else ())
    return [*batch[::-1], *(left[-2:-1]), *(right[-1:] if len(right) > 1 else [])]


@rule("scaled_dot_product_attention")
def attention(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """q (…, H, L, E), k (…, H, S, E), v (…, H, S, F), mask (…, L, S) → (…, H, L, F).

    Without a given scale the scores are divided by √E, so E must stay. With grouped queries H of q is that of k, v
    times the size of a group.
    """
    q, k, v = (list(flow.of(args[key])) for key in ("query", "key", "value"))
    flow.couple(q[-1], k[-1], node)
    flow.products.append(q[-1])
    if args.get("scale") is None:
        flow.pin([q[-1], k[-1]], node, "divides by the root of its size")
    flow.couple(k[-2], v[-2], node)
    flow.pin([k[-2], v[-2], q[-2]], node, "takes a softmax over it")
    for index in range(-3, -len(q) - 1, -1):
        flow.couple(k[index], v[index], node)
        heads, groups = shape(args["query"])[index], shape(args["key"])[index]
        if heads == groups or 1 in (heads, groups):
            flow.couple(q[index], k[index], node)
        else:
            outer, inner = flow.regroup([q[index]], [groups, heads // groups], node)
            flow.couple(outer, k[index], node)
            flow.pin([inner], node, "shares keys and values among it")
    mask = args.get("attn_mask")
    if mask is not None:
        scores = [*q[:-1], k[-2]]
        for own, made in zip(reversed(flow.of(mask)), reversed(scores), strict=False):
            flow.couple(own, made, node)
    return [*q[:-1], v[-1]]


@rule("einsum")
def einsum(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """Dimensions under one letter correspond."""
    equation, values = args["equation"].replace(" ", ""), args["tensors"]
    terms, _, result = equation.partition("->")
    letters: dict[str, Dim] = {}
    if "..." in equation or not result:
        flow.pin([dim for value in values for dim in flow.of(value)], node, "has an equation with implicit dimensions")
        return constant(shape(node))
    for term, value in zip(terms.split(","), values, strict=True):
        for letter, dim in zip(term, flow.of(value), strict=True):
            flow.couple(letters.setdefault(letter, dim), dim, node)
            letters[letter] = letters[letter] or dim
        for place, letter in enumerate(term):
            flow.role(value, place, "out" if letter in result else "in")
    flow.products.extend(dim for letter, dim in letters.items() if letter not in result)
    for letter in set(terms) - set(result) - {","}:
        if sum(letter in term for term in terms.split(",")) == 1:  # summed without a partner
            flow.pin([letters[letter]], node, "sums over it")
    return [letters[letter] for letter in result]


def _roles(flow: Flow, node: Node, args: dict[str, Any], dim: int, input_: tuple[int, int], plain: bool) -> None:
    """What the dimensions of weight (out, in, …) and bias are for."""
    flow.role(args["weight"], 0, "out")
    flow.role(args["weight"], 1, "in")
    _kernel(flow, args["weight"])
    _bias(flow, node, args.get("bias"), flow.of(args["weight"])[0])
    _contraction(flow, node, args, (dim, *input_), plain)


def _kernel(flow: Flow, weight: Node) -> None:
    for index in range(2, len(flow.of(weight))):
        flow.role(weight, index, "kernel")


def _contraction(flow: Flow, node: Node, args: dict[str, Any], at: tuple[int, int, int], plain: bool) -> None:
    name = flow.parameter(args["weight"])
    dim, channels, groups = at
    if name is not None:
        flow.contractions.append(
            Contraction(node, name, dim, channels, groups, plain, flow.parameter(args.get("bias")))
        )


def _bias(flow: Flow, node: Node, bias: Any, out: Dim, couple: bool = True) -> None:
    if bias is not None and flow.of(bias):
        if couple:
            flow.couple(flow.of(bias)[-1], out, node)
        flow.role(bias, -1, "shift")


def _many(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
