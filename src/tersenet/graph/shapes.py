"""Whether the smaller model's own code makes of its tensors what the channel graph predicts.

A view such as ``(…, -1, head size)`` runs with any number of channels. If single elements of every head were
removed, it would build fewer whole heads out of them, and the outputs might hardly differ. So where axes are regrouped,
the smaller model is exported again and each operator's result is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from tersenet.graph.axes import Axis, Dim, expand, leaves
from tersenet.graph.flow import Flow
from tersenet.graph.slices import new_size
from tersenet.graph.trace import Inputs, operator, place, trace


def mismatch(model: nn.Module, flow: Flow, lost: Mapping[Axis, int], inputs: Inputs) -> tuple[Node, str] | None:
    """The first operator whose result has another shape than predicted, and what is to be said of it."""
    if not any(_regroups(flow, node, lost) for node in flow.trace.nodes if node.op == "call_function"):
        return None
    found = [node for node in trace(model, inputs).nodes if node.op == "call_function"]
    expected = [node for node in flow.trace.nodes if node.op == "call_function"]
    for old, new in zip(expected, found, strict=False):
        if old.target is not new.target:
            return old, f"the smaller model calls {operator(new)} in place of {operator(old)} at {place(old)}"
        if (wrong := _wrong(flow.dims.get(old), new.meta.get("val"), lost)) is not None:
            return old, f"{operator(old)} at {place(old)} would give {wrong[0]} in place of {wrong[1]}: a size is fixed"
    return None


def _regroups(flow: Flow, node: Node, lost: Mapping[Axis, int]) -> bool:
    """Whether a changing dimension of the result is none of the arguments' dimensions: so it was cut or joined."""
    made = [dim for dim in _dims(flow.dims.get(node)) if any(leaf in lost for leaf in leaves(dim))]
    given = {expand(dim) for value in node.all_input_nodes for dim in _dims(flow.dims.get(value))}
    return any(expand(dim) not in given for dim in made)


def _dims(value: Any) -> list[Dim]:
    entries = value if isinstance(value, list) else []
    return [dim for entry in entries for dim in ([entry] if isinstance(entry, tuple) else _dims(entry))]


def _wrong(dims: Any, value: Any, lost: Mapping[Axis, int]) -> tuple[list[int], list[int]] | None:
    """(real shape, predicted shape) of the first tensor in which they differ."""
    if isinstance(value, list | tuple):
        pairs = (_wrong(own, tensor, lost) for own, tensor in zip(dims or [], value, strict=False))
        return next((pair for pair in pairs if pair is not None), None)
    if not isinstance(value, torch.Tensor) or not isinstance(dims, list):
        return None
    predicted = [new_size(dim, lost) for dim in dims]
    return None if list(value.shape) == predicted else (list(value.shape), predicted)
