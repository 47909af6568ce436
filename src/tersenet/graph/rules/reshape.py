"""Operators that only rearrange: views, transpositions, joins and cuts."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from tersenet.graph.axes import Dim, concatenated, fixed, size_of
from tersenet.graph.flow import Dims, Flow, constant, is_fixed, rule, shape


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
def reshape(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """The same elements in row-major order under other sizes."""
    dims = flow.regroup(flow.of(node.args[0]), shape(node), node)
    sizes = args.get("size", args.get("shape"))
    if isinstance(sizes, list | tuple):
        whole = sizes if "sizes" not in args else ()
        flow.sizes[node] = [(s, d) for s, d in zip(whole, dims, strict=False) if isinstance(s, int)]
    if "sizes" in args:  # unflatten
        start = args["dim"] % len(flow.of(node.args[0]))
        flow.sizes[node] = list(zip(args["sizes"], dims[start:], strict=False))
    return dims


@rule("permute")
def permute(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    dims = flow.of(args["self"])
    return [dims[index] for index in args["dims"]]


@rule("transpose", "swapaxes", "swapdims")
def transpose(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    dims = list(flow.of(args["self"]))
    a, b = (args[key] for key in args if key != "self")
    dims[a], dims[b] = dims[b], dims[a]
    return dims


@rule("t", "numpy_T", "mT", "matrix_H", "mH", "adjoint")
def turned(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    dims = list(flow.of(args["self"]))
    return [*dims[:-2], *dims[:-3:-1]] if len(dims) >= 2 else dims


@rule("movedim", "moveaxis")
def movedim(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    dims = flow.of(args["self"])
    source, target = ([v] if isinstance(v, int) else list(v) for v in (args["source"], args["destination"]))
    source, target = [s % len(dims) for s in source], [t % len(dims) for t in target]
    rest = iter(index for index in range(len(dims)) if index not in source)
    order = [source[target.index(place)] if place in target else next(rest) for place in range(len(dims))]
    return [dims[index] for index in order]


@rule("expand")
def expand_(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """Sizes of 1 stretched; a stretched dimension holds copies, whose number is the caller's."""
    own, sizes = flow.of(args["self"]), shape(node)
    padded: Dims = [()] * (len(sizes) - len(own)) + list(own)
    dims = [dim or fixed(size, "copies of one element") for dim, size in zip(padded, sizes, strict=True)]
    flow.sizes[node] = [(s, d) for s, d in zip(args["size"], dims, strict=False) if isinstance(s, int)]
    return dims


@rule("repeat", "tile")
def repeat(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """k copies of a dimension one after another: k × dim."""
    times = [int(k) for k in args["repeats" if "repeats" in args else "dims"]]
    own = flow.of(args["self"])
    rank = max(len(times), len(own))
    times = [1] * (rank - len(times)) + times
    padded: Dims = [()] * (rank - len(own)) + list(own)
    return [(*fixed(k, "copies"), *dim) if k else fixed(0, "") for k, dim in zip(times, padded, strict=True)]


@rule("repeat_interleave")
def repeat_interleave(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """Each element k times in a row: dim × k."""
    dims = list(flow.of(args["self"]))
    if not isinstance(args.get("repeats"), int) or args.get("dim") is None:
        flow.pin(dims, node, "repeats its elements unevenly")
        return constant(shape(node))
    index = args["dim"] % len(dims)
    dims[index] = (*dims[index], *fixed(args["repeats"], "copies"))
    return dims


@rule("cat", "concat", "concatenate")
def cat(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    parts = [value for value in args["tensors"] if shape(value) != (0,)]
    index = (args.get("dim") or 0) % len(shape(node))
    dims = list(flow.of(parts[0]))
    for part in parts[1:]:
        for place, (one, other) in enumerate(zip(dims, flow.of(part), strict=True)):
            if place != index:
                flow.couple(one, other, node)
    dims[index] = concatenated([flow.of(part)[index] for part in parts if shape(part)[index]])
    return dims


@rule("stack")
def stack(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    parts = args["tensors"]
    dims = list(flow.of(parts[0]))
    for part in parts[1:]:
        for one, other in zip(dims, flow.of(part), strict=True):
            flow.couple(one, other, node)
    dims.insert(args["dim"] % len(shape(node)), fixed(len(parts), "stacked tensors"))
    return dims


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(flow: Flow, node: Node, args: dict[str, Any]) -> list[Dims]:
    """Pieces of one dimension. Those of an even split stay even, so their units are coupled."""
    dims = list(flow.of(args["self"]))
    index = (args.get("dim") or 0) % len(dims)
    lengths = [int(value.shape[index]) for value in node.meta["val"]]
    pieces: list[Dim] = []
    rest = dims[index]
    for length in lengths[:-1]:
        piece, rest = flow.cut(rest, length, node)
        pieces.append(piece)
    pieces.append(rest)
    given = args.get("split_sizes", args.get("split_size"))
    if isinstance(given, list | tuple):
        flow.sizes[node] = [(size, piece) for size, piece in zip(given, pieces, strict=False) if isinstance(size, int)]
    else:
        if len(set(lengths)) == 1:
            for piece in pieces[1:]:
                flow.couple(pieces[0], piece, node)
        else:
            flow.pin([dims[index]], node, "cuts it into uneven pieces")
        flow.sizes[node] = [(given, pieces[0])] if isinstance(given, int) else []
    return [[*dims[:index], piece, *dims[index + 1 :]] for piece in pieces]


@rule("slice", "narrow")
def slice_(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    dims = list(flow.of(args["self"]))
    index = (args.get("dim") or 0) % len(dims)
    size, want = shape(args["self"])[index], shape(node)[index]
    if want == size or is_fixed(dims[index]):
        dims[index] = dims[index] if want == size else constant([want])[0]
        return dims
    start = args.get("start") or 0
    if args.get("step", 1) != 1 or not isinstance(start, int):
        flow.pin([dims[index]], node, "takes every so-many-th of it")
        dims[index] = constant([want])[0]
        return dims
    start = min(start % size if start < 0 else start, size)
    before, rest = flow.cut(dims[index], start, node)
    dims[index], _ = flow.cut(rest, want, node)
    end = args.get("end")
    numbers = [(start, before), (end, (*concatenated([d for d in (before, dims[index]) if size_of(d)]),))]
    flow.sizes[node] = [(n, d) for n, d in numbers if isinstance(n, int) and 0 < n < size]
    return dims


@rule("select")
def select(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    dims = list(flow.of(args["self"]))
    index = args["dim"] % len(dims)
    flow.pin([dims[index]], node, "takes one element of it by its number")
    return [*dims[:index], *dims[index + 1 :]]


@rule("unbind")
def unbind(flow: Flow, node: Node, args: dict[str, Any]) -> list[Dims]:
    dims = flow.of(args["self"])
    index = (args.get("dim") or 0) % len(dims)
    flow.pin([dims[index]], node, "takes it apart into a fixed number of tensors")
    return [[*dims[:index], *dims[index + 1 :]] for _ in node.meta["val"]]


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def pad(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """Constant elements before and after; they keep their number."""
    dims = list(flow.of(args["self"]))
    widths = [int(width) for width in args["pad" if "pad" in args else "padding"]]
    for place in range(len(widths) // 2):
        before, after = widths[2 * place : 2 * place + 2]
        index = len(dims) - 1 - place
        if not before and not after:
            continue
        if before < 0 or after < 0 or args.get("mode", "constant") != "constant" or "pad" not in args:
            flow.pin([dims[index]], node, "pads it with what lies at its ends")
            dims[index] = constant([shape(node)[index]])[0]
            continue
        parts = [fixed(before, "zero padding"), dims[index], fixed(after, "zero padding")]
        dims[index] = concatenated([part for part, size in zip(parts, (before, 1, after), strict=True) if size])
    return dims


@rule("roll", "flip", "rot90", "cumsum", "cumprod", "sort", "argsort", "tril", "triu", "unfold")
def ordered(flow: Flow, node: Node, args: dict[str, Any]) -> Any:
    """Where an element goes depends on its place among the others."""
    value = node.args[0]
    dims = flow.of(value)
    chosen = args.get("dims", args.get("dim", args.get("dimension")))
    if isinstance(chosen, int):
        chosen = [chosen]
    picked = dims[-2:] if "tri" in node.name else dims if not chosen else [dims[index] for index in chosen]
    flow.pin(picked, node, "depends on the order of its elements")
    result = node.meta["val"]
    if isinstance(result, list | tuple):
        return [list(dims) for _ in result]
    return list(dims) if tuple(result.shape) == shape(value) else constant(result.shape)  # type: ignore[arg-type]


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "col2im")
def pixels(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """Channels that hold r × r pixels each, (N, C·r², H, W) ↔ (N, C, H·r, W·r), and the like for patches."""
    dims, before, after = list(flow.of(args["self"])), shape(args["self"]), shape(node)
    kind = str(node.target)
    if "channel_shuffle" in kind:
        outer, inner = flow.regroup([dims[1]], [args["groups"], before[1] // args["groups"]], node)
        return [dims[0], (*inner, *outer), *dims[2:]]
    place = len(before) - 2 if "col2im" in kind else len(before) - 3
    tail = constant(after[place + 1 :])
    if before[place] % after[place] == 0:  # every channel of the result is made of several
        dims[place], pixels = flow.regroup([dims[place]], [after[place], before[place] // after[place]], node)
        flow.pin([pixels], node, "makes pixels of it")
        return [*dims[: place + 1], *tail]
    return [*dims[:place], (*dims[place], *fixed(after[place] // before[place], "pixels")), *tail]
