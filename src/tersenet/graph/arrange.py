"""Channels in another order: the network computes the same, and a coder that looks at the row before sees more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tersenet.core.stage import RunContext
from tersenet.graph.channels import ChannelGraph, Group
from tersenet.graph.compare import distance, samples_of, tensors_in, tolerance
from tersenet.graph.dead import followed
from tersenet.graph.reasons import formed
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import repeatable, undisturbed

MOST = 8192
"""Units of a group that are compared, each with all others."""


def arrange(model: nn.Module, graph: ChannelGraph, orders: Mapping[Group, np.ndarray]) -> tuple[Group, ...]:
    """Put the units of each group into the order given, in place; the groups for which outputs stayed the same.

    orders: group → its units, each once. Where order matters (channels that are split or shuffled) outputs change; that
    is found out by running the model, and such a group is left as it was.
    """
    tensors, samples = tensors_of(model), samples_of(graph.inputs, None)

    def outputs() -> list[list[torch.Tensor]]:
        with repeatable(model):
            return [tensors_in(model(*args, **kwargs)) for args, kwargs in samples]

    done = []
    with undisturbed(model):
        before = outputs()
        for group, order in orders.items():
            _move(group, order, tensors)
            try:
                apart = max(map(distance, outputs(), before))
            except RuntimeError:  # of the model's own code
                apart = float("inf")
            if apart <= tolerance(tensors):
                done.append(group)
            else:
                _move(group, np.argsort(order), tensors)
    return tuple(done)


def order_alike(model: nn.Module, context: RunContext) -> None:
    """Put the channels of every group, in place, so that each follows the one that is most like it."""
    graph = followed(model, context, "channels are left in their order")
    if graph is not None:
        groups = (group for group in graph if group.prunable and formed(group) is None)
        arrange(model, graph, {group: by_likeness(group, tensors_of(model)) for group in groups})


def _move(group: Group, order: np.ndarray, tensors: Mapping[str, torch.Tensor]) -> None:
    for member in group.members:
        tensor = tensors[member.tensor]
        places = np.arange(tensor.shape[member.dim])
        places[member.elements.ravel()] = member.elements[order].ravel()
        moved = tensor.data.index_select(member.dim, torch.from_numpy(places).to(tensor.device))
        tensor.data.copy_(moved)


def by_likeness(group: Group, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
    """The group's units, each followed by that of the rest which is most like it: whose weights are nonzero at the same
    places, by the cosine of the angle between the two patterns. The first is the one with most of them."""
    makers = [member for member in group.by_role("out") if tensors[member.tensor].ndim > 1]
    if not makers or not 2 < group.units <= MOST:
        return np.arange(group.units)
    patterns = []
    for member in makers:
        flags = (tensors[member.tensor].detach() != 0).movedim(member.dim, 0).flatten(1)
        patterns.append(flags[torch.from_numpy(member.elements).to(flags.device)].flatten(1).float())
    pattern = torch.cat(patterns, 1)
    count = pattern.sum(1)
    alike = (pattern @ pattern.T).div_((count[:, None] * count).sqrt_().clamp_(min=1)).cpu()
    order, place = [], int(count.argmax())
    for _ in range(group.units):
        order.append(place)
        alike[:, place] = -1.0  # is taken
        place = int(alike[place].argmax())
    return np.array(order)
