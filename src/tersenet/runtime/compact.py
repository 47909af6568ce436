"""Weights of few values inside an ONNX graph: integers and their steps in place of floats."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tersenet.runtime.packed import LEAST, in_a_byte, packed
from tersenet.runtime.plain import BYTE, Levels

SAME = 1e-6
"""How far integers times steps may be from the exporter's floats, relative to the largest of the weight: what is left
is the rounding of batch norms that the exporter has multiplied into it."""

HALVES = {"float16": 10, "bfloat16": 16}
"""Types of two bytes, by ONNX's number."""

SMALL = 64
"""Tensors of fewer entries keep their four bytes."""


@dataclass(frozen=True)
class Found:
    """A weight in a graph: its place, the floats there, and what the form knew, turned as the exporter has it."""

    place: int
    held: np.ndarray
    values: np.ndarray
    numbers: np.ndarray | None


def compact(proto: Any, weights: Iterable[Levels], *, pack: bool) -> list[str]:
    """Replace initialisers of `proto`, an onnx.ModelProto, that are `weights`; notes on those that stay floats.

    Integers become int8, or int4 where they fit and the layer's input is no integer, with one scale for each place
    along an axis and DequantizeLinear behind them; other weights of at most 256 values a uint8 index with Gather.
    pack: numbers of which a byte holds several, and which int4 does not hold as well, lie in bytes (`runtime.packed`).
    """
    notes = []
    initialisers = {entry.name: place for place, entry in enumerate(proto.graph.initializer)}
    for weight in weights:
        found = _find(proto, weight, initialisers)
        parts = None if found is None else _as_numbers(proto, found, weight.bits, pack) or _as_book(proto, found, pack)
        if found is None or parts is None:
            notes.append(f"{weight.name} stays float32: the exported graph holds no multiples of its values")
        else:
            _replace(proto, found.place, *parts)
    return notes


def halve(proto: Any, dtype: str) -> None:
    """Float initialisers of `proto` in two bytes, widened before they are used: computed in float32."""
    import onnx
    from ml_dtypes import bfloat16

    kind = bfloat16 if dtype == "bfloat16" else np.float16
    for place, entry in enumerate(proto.graph.initializer):
        if entry.data_type != onnx.TensorProto.FLOAT or np.prod(entry.dims) < SMALL or entry.name.endswith(SCALE):
            continue
        half = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(entry).astype(kind), entry.name)
        node = onnx.helper.make_node("Cast", [half.name], [""], to=onnx.TensorProto.FLOAT)
        _replace(proto, place, [half], [node])


SCALE, FLOATS = "_scale", "_floats"


def _find(proto: Any, weight: Levels, places: dict[str, int]) -> Found | None:
    """By its name; where the exporter has made another tensor of it, by its values, as they are or transposed."""
    from onnx import numpy_helper

    if weight.name in places:
        held = numpy_helper.to_array(proto.graph.initializer[places[weight.name]])
        return (
            Found(places[weight.name], held, weight.values, weight.numbers)
            if held.shape == weight.values.shape
            else None
        )
    for turn in (np.asarray, np.transpose):
        values = turn(weight.values)
        for place, entry in enumerate(proto.graph.initializer):
            if tuple(entry.dims) == values.shape and np.array_equal(numpy_helper.to_array(entry), values):
                return Found(place, values, values, None if weight.numbers is None else turn(weight.numbers))
    return None


Parts = tuple[list[Any], list[Any]]
"""Initialisers and nodes."""


def _as_numbers(proto: Any, found: Found, bits: int, pack: bool) -> Parts | None:
    if found.numbers is None:
        return None
    from ml_dtypes import int4
    from onnx import helper, numpy_helper

    name, numbers = proto.graph.initializer[found.place].name, found.numbers
    scaled = next((pair for axis in _axes(numbers) if (pair := _factors(found.held, numbers, axis)) is not None), None)
    if scaled is None:
        return None
    axis, scale = scaled
    low, high = (_by_row(numbers, axis, extreme) for extreme in (np.min, np.max))
    offset = np.zeros_like(low)
    if low.min(initial=0) < -BYTE // 2 or high.max(initial=0) >= BYTE // 2:
        offset = -np.minimum(low, 0)
    if (high + offset).max(initial=0) >= BYTE:
        return None
    kind: Any = np.uint8 if offset.any() else np.int8
    if bits <= 4 and not _takes_integers(proto, name) and low.min(initial=0) >= -8 and high.max(initial=0) < 8:
        kind = int4
    if pack and not offset.any() and _pays(numbers, 2 if kind is int4 else 1):
        tensors, nodes = packed(numbers, name)
        integers = nodes[-1].output[0] = f"{name}_integers"
    else:
        shifted = numbers + offset.reshape([-1 if place == axis else 1 for place in range(numbers.ndim)])
        tensors, nodes, integers = [numpy_helper.from_array(shifted.astype(kind), name)], [], name
    beside = [numpy_helper.from_array(scale, f"{name}{SCALE}")]
    if offset.any():
        beside.append(numpy_helper.from_array(offset.astype(np.uint8), f"{name}_zero"))
    inputs = [integers, *(entry.name for entry in beside)]
    return [*tensors, *beside], [*nodes, helper.make_node("DequantizeLinear", inputs, [""], axis=axis)]


def _pays(numbers: np.ndarray, already: int) -> bool:
    """Whether a byte holds more of them than `already`."""
    values = len(np.unique(numbers)) if numbers.size >= LEAST else BYTE
    return in_a_byte(values) > already


def _by_row(numbers: np.ndarray, axis: int, extreme: Callable[..., np.ndarray]) -> np.ndarray:
    return extreme(numbers, axis=tuple(other for other in range(numbers.ndim) if other != axis), initial=0)


def _as_book(proto: Any, found: Found, pack: bool) -> Parts | None:
    from onnx import TensorProto, helper, numpy_helper

    book, index = np.unique(found.values, return_inverse=True)
    index = index.reshape(found.held.shape)
    scaled = next(
        (pair for axis in _axes(found.held) if (pair := _factors(found.held, found.values, axis)) is not None),
        None,
    )
    if len(book) > BYTE or scaled is None:
        return None
    name = proto.graph.initializer[found.place].name
    axis, scale = scaled
    tensors: list[Any] = [numpy_helper.from_array(index.astype(np.uint8), name)]
    nodes: list[Any] = []
    places = name
    if pack and _pays(index, 1):
        tensors, nodes = packed(index, name)
        places = nodes[-1].output[0] = f"{name}_numbers"
    tensors.append(numpy_helper.from_array(book.astype(np.float32), f"{name}_book"))
    nodes.append(helper.make_node("Cast", [places], [f"{name}_places"], to=TensorProto.INT32))
    nodes.append(helper.make_node("Gather", [f"{name}_book", f"{name}_places"], [f"{name}_values"]))
    if not (scale == 1).all():
        shape = [len(scale) if place == axis else 1 for place in range(found.held.ndim)]
        tensors.append(numpy_helper.from_array(scale.reshape(shape), f"{name}{SCALE}"))
        nodes.append(helper.make_node("Mul", [f"{name}_values", f"{name}{SCALE}"], [""]))
    return tensors, nodes


def _axes(values: np.ndarray) -> range:
    """Outputs lie along the first axis, of a transposed weight or layer along the second."""
    return range(min(values.ndim, 2))


def _factors(held: np.ndarray, values: np.ndarray, axis: int) -> tuple[int, np.ndarray] | None:
    """Float32 factors, one for each place along `axis`, that make `held` of `values`, by least squares: then the
    roundings of many entries cancel. None where none do."""
    rows, wanted = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1).astype(np.float64) for v in (values, held))
    norms = (rows * rows).sum(1)
    factors = np.where(norms > 0, (rows * wanted).sum(1) / np.where(norms > 0, norms, 1), 1).astype(np.float32)
    error = np.abs(rows * factors[:, None] - wanted).max(initial=0)
    return (axis, factors) if error <= SAME * np.abs(wanted).max(initial=0) else None


def _takes_integers(proto: Any, weight: str) -> bool:
    """Whether the layer of `weight` reads what has been rounded: runtimes then multiply integers of eight bits."""
    made = {output: node.op_type for node in proto.graph.node for output in node.output}
    readers = [node for node in proto.graph.node if weight in node.input]
    return any(made.get(name) == "DequantizeLinear" for node in readers for name in node.input if name != weight)


def _replace(proto: Any, place: int, tensors: list[Any], nodes: list[Any]) -> None:
    """The initialiser at `place` becomes the first of `tensors`, of the same name; the last of `nodes`, which come
    first, gives what it was, under another name."""
    name, others = tensors[0].name, list(proto.graph.node)
    nodes[-1].output[0] = f"{name}{FLOATS}"
    for node in others:
        node.input[:] = [f"{name}{FLOATS}" if one == name else one for one in node.input]
    proto.graph.initializer[place].CopyFrom(tensors[0])
    proto.graph.initializer.extend(tensors[1:])
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *others])
