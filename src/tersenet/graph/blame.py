"""Where the smaller model's code broke, and which groups of channels meet there."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Node

from tersenet.graph.axes import leaves
from tersenet.graph.channels import ChannelGraph, Group
from tersenet.graph.slices import Choice
from tersenet.graph.trace import frames, owner


@dataclass(frozen=True)
class Failure:
    """Why a removal cannot be, and the groups of the choice that meet where it fails, if that is known."""

    reason: str
    guilty: tuple[Group, ...] = ()


def blame(error: Exception, model: nn.Module, graph: ChannelGraph, choice: Choice) -> Failure:
    """The groups that meet where the model's code raised `error`: a size is written into it there."""
    lines: list[tuple[str, int, str | None]] = []
    names = {id(module): name for name, module in model.named_modules()}
    for frame, line in traceback.walk_tb(error.__traceback__):
        own = frame.f_locals.get("self")
        lines.append((frame.f_code.co_filename, line, names.get(id(own)) if isinstance(own, nn.Module) else None))
    nodes = [node for node in graph.flow.trace.nodes if node.op == "call_function"]
    for file, line, module in reversed(lines):
        at = [n for n in nodes if any(f.file == file and f.line == line for f in frames(n))]
        if module is not None:
            at = [n for n in at if owner(n) == module or owner(n).startswith(f"{module}.")]
        guilty = near(graph, choice, *at)
        if guilty and "/torch/" not in file:
            where = f"{file.rsplit('/', 1)[-1]}:{line}"
            return Failure(f"a size is written into {module or 'the model'} ({where}): {_first(error)}", guilty)
    return Failure(f"the model's own code cannot run with the new size: {_first(error)}")


def near(graph: ChannelGraph, choice: Choice, *nodes: Node) -> tuple[Group, ...]:
    """Chosen groups with units in the values that go in or out of these operators."""
    axes = {group.axis.root(): group for group in choice}
    found: dict[str, Group] = {}
    for node in nodes:
        for value in (node, *node.all_input_nodes):
            for leaf in _leaves(graph.flow.dims.get(value)):
                if leaf in axes:
                    found[axes[leaf].name] = axes[leaf]
    return tuple(found.values())


def _leaves(dims: Any) -> Iterator[Any]:
    for entry in dims if isinstance(dims, list) else []:
        if isinstance(entry, tuple):
            yield from leaves(entry)
        else:
            yield from _leaves(entry)


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
