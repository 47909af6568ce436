"""How many operators read each tensor of a model."""

from __future__ import annotations

from collections import Counter

from torch import nn

from tersenet.graph.channels import ChannelGraph
from tersenet.graph.slices import tensors_of


def uses(graph: ChannelGraph, model: nn.Module) -> Counter[str]:
    """Tensor → how many operators read it, under whichever of its names. model: the one that was exported."""
    named = tensors_of(model)
    counts: Counter[int] = Counter()
    for node in graph.flow.trace.nodes:
        if node.op == "placeholder" and (name := graph.flow.trace.tensors.get(node.name)) in named:
            counts[id(named[name])] += len(node.users)
    return Counter({name: counts[id(tensor)] for name, tensor in named.items()})
