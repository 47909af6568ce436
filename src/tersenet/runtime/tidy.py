"""An ONNX graph without what only its maker needs: the story of its making, equal constants, long names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from itertools import count
from typing import Any


def strip(proto: Any) -> None:
    """Without what the exporter tells of its work: paths, lines of Python, shapes that anyone can infer."""
    del proto.metadata_props[:], proto.graph.metadata_props[:], proto.graph.value_info[:]
    for entry in (*proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del entry.metadata_props[:]
        entry.doc_string = ""


def shorten(proto: Any, named: Container[str]) -> None:
    """Equal initialisers become one, and so do roundings of one value to the same steps; what is rounded after it was
    pooled, moved or concatenated is rounded before. Inputs, outputs and the initialisers in `named` keep their names;
    all other values are numbered.

    A graph with graphs inside is left as it is: those may use its names.
    """
    graph = proto.graph
    if any(part.HasField("g") or part.graphs for node in graph.node for part in node.attribute):
        return
    whole = [entry.name for entry in (*graph.input, *graph.output)]
    _rename(graph, _equal_constants(graph, {*whole}))
    _rename(graph, _equal_grids(graph, {*whole}))
    _carry_grids(graph, whole)
    known = {"": "", **{name: name for name in whole}}
    known |= {entry.name: entry.name for entry in graph.initializer if entry.name in named}
    fresh = (short for short in map(str, count()) if short not in known)
    for entry in graph.initializer:
        entry.name = known.setdefault(entry.name, next(fresh))
    for node in graph.node:
        node.name = ""
        for name in node.output:
            known.setdefault(name, next(fresh))
    _rename(graph, known)


def _rename(graph: Any, known: Mapping[str, str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [known.get(name, name) for name in names]


def _equal_constants(graph: Any, whole: Container[str]) -> dict[str, str]:
    """Takes out initialisers that are equal to an earlier one: their name → its."""
    held: dict[bytes, str] = {}
    known, kept = {}, []
    for entry in graph.initializer:
        name, entry.name = entry.name, ""
        content = entry.SerializeToString(deterministic=True)
        entry.name = name
        if name not in whole and content in held:
            known[name] = held[content]
        else:
            held.setdefault(content, name)
            kept.append(entry)
    _only(graph.initializer, kept)
    return known


def _equal_grids(graph: Any, whole: Container[str]) -> dict[str, str]:
    """Takes out roundings of what has been rounded to the same steps already, or is in another place: their output →
    what is the same."""
    known: dict[str, str] = {}
    made: dict[str, tuple[str, tuple[str, ...]]] = {}
    seen: dict[tuple[Any, ...], str] = {}
    kept = []
    for node in graph.node:
        inputs = tuple(known.get(name, name) for name in node.input)
        output = node.output[0]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and output not in whole:
            maker, given = made.get(inputs[0], ("", ("",)))
            again = (node.op_type, maker, given[1:]) == ("QuantizeLinear", "DequantizeLinear", inputs[1:])
            key = (node.op_type, inputs, *(part.SerializeToString() for part in node.attribute))
            same = given[0] if again else seen.setdefault(key, output)
            if same != output:
                known[output] = same
                continue
        made |= dict.fromkeys(node.output, (node.op_type, inputs))
        kept.append(node)
    _only(graph.node, kept)
    return known


MOVERS = ("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
"""Operators that rounding their first input commutes with: they take entries, or the largest of some."""


def _carry_grids(graph: Any, whole: Iterable[str]) -> None:
    """What is pooled, moved or concatenated and then rounded is rounded before as well, which gives the same numbers.
    The layer that made it then gives integers, for which runtimes have fast kernels, and what stands between works on
    integers too."""
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter([*(name for node in graph.node for name in node.input), *whole])
    joined, moved = {}, {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            name = node.input[0]
            while readers[name] == 1 and name in makers and makers[name].op_type in MOVERS:
                name = makers[name].input[0]
            kind = makers[name].op_type if readers[name] == 1 and name in makers else "DequantizeLinear"
            if kind == "Concat":
                joined[name] = node.input[1:]
            elif kind != "DequantizeLinear" and name != node.input[0]:
                moved[name] = node.input[1:]
    kept: list[Any] = []
    for node in graph.node:
        grid = joined.get(node.output[0], [])
        for place, name in enumerate(node.input):
            if grid or name in moved:
                node.input[place] = f"{node.output[0]}_{place}"
                kept += _pair(name, grid or moved[name], node.input[place])
        kept.append(node)
    _only(graph.node, kept)


def _pair(name: str, grid: Iterable[str], rounded: str) -> list[Any]:
    from onnx import helper

    numbers = f"{rounded}_numbers"
    return [
        helper.make_node("QuantizeLinear", [name, *grid], [numbers]),
        helper.make_node("DequantizeLinear", [numbers, *grid], [rounded]),
    ]


def _only(held: Any, kept: list[Any]) -> None:
    """`held` becomes `kept`, which are some of it."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
    del held[:]
    held.extend(copies)
