"""An ONNX graph without what only its maker needs: the story of its making, equal constants, long names."""

from __future__ import annotations

from collections.abc import Container
from itertools import count
from typing import Any


def strip(proto: Any) -> None:
    """Without what the exporter tells of its work: paths, lines of Python, shapes that anyone can infer."""
    del proto.metadata_props[:], proto.graph.metadata_props[:], proto.graph.value_info[:]
    for entry in (*proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del entry.metadata_props[:]
        entry.doc_string = ""


def shorten(proto: Any, named: Container[str]) -> None:
    """Equal initialisers become one. Inputs, outputs and the initialisers in `named` keep their names; all other values
    are numbered. A graph with graphs inside is left as it is: those may use its names."""
    graph = proto.graph
    if any(part.HasField("g") or part.graphs for node in graph.node for part in node.attribute):
        return
    known = {"": ""} | {entry.name: entry.name for entry in (*graph.input, *graph.output)}
    fresh = (short for short in map(str, count()) if short not in known and short not in named)
    held: dict[bytes, str] = {}
    for entry in list(graph.initializer):
        name, entry.name = entry.name, ""
        content = entry.SerializeToString(deterministic=True)
        if name not in known and content in held:
            known[name] = held[content]
            graph.initializer.remove(entry)
            continue
        entry.name = known[name] = name if name in named or name in known else next(fresh)
        held[content] = entry.name
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [known[name] if name in known else known.setdefault(name, next(fresh)) for name in names]
