"""Channels that are zero in everything that makes them, or in everything that reads them: they are removed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.stage import RunContext
from tersenet.graph.channels import ChannelGraph, Group, Member
from tersenet.graph.compare import tolerance
from tersenet.graph.reasons import formed, told
from tersenet.graph.remove import remove
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import Inputs

EXAMPLES = 8
"""In the batch on which the model is followed, and the smaller one compared with it."""


def remove_dead(model: nn.Module, context: RunContext) -> None:
    """Remove, in place, the channels of every group that no weight makes any more, that no weight reads, or that every
    norm scales by zero. What cannot be removed is told to `context` and stays."""
    graph = followed(model, context, "channels that are zero are not removed")
    if graph is None:
        return
    dead = {group: dead_units(group, model) for group in graph}
    refused = {g.name: reason for g, units in dead.items() if len(units) and (reason := g.reason or formed(g))}
    units = {group.name: units for group, units in dead.items() if len(units) and group.name not in refused}
    done = remove(model, graph, units)
    for sentence in told({**refused, **done.refused}):
        context.note(sentence)
    if done.removed:
        lost = (f"{name} {len(gone)} of {graph[name].units}" for name, gone in done.removed.items())
        context.note(f"channels that are zero removed: {', '.join(lost)}")
    if done.change > tolerance(tensors_of(model)):
        context.note(f"what they still gave (biases, shifts) changes outputs by {done.change:.1e} of the largest")


def followed(model: nn.Module, context: RunContext, otherwise: str) -> ChannelGraph | None:
    """Channels of the model, seen on a batch of the run's data; None, and a note beginning with `otherwise`, where it
    cannot be followed."""
    found = next(iter(context.batches("train", 1, EXAMPLES)), None)
    if found is None:
        context.note(f"{otherwise}, since there is no batch of data to follow the model on")
        return None
    inputs: Inputs = (found[0], {})
    try:
        return ChannelGraph(model, inputs)
    except ModelError as error:
        context.note(f"{otherwise}: {error}")
        return None


def dead_units(group: Group, model: nn.Module) -> np.ndarray:
    """Units of `group` that are zero in every weight of a role, ascending; never all of them, since one must stay."""
    tensors = tensors_of(model)
    makers = [member for member in group.by_role("out") if tensors[member.tensor].ndim > 1]
    roles = (makers, list(group.by_role("scale")), list(group.by_role("in")))
    zero = np.any([_zero(members, tensors) for members in roles if members] or [np.zeros(group.units, bool)], axis=0)
    units = np.flatnonzero(zero)
    return units[1:] if len(units) == group.units else units


def _zero(members: Iterable[Member], tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """Whether each unit is zero in all `members`."""
    return np.asarray(np.all([_zero_in(member, tensors[member.tensor]) for member in members], axis=0))


def _zero_in(member: Member, tensor: torch.Tensor) -> np.ndarray:
    alive = (tensor.detach() != 0).movedim(member.dim, 0).flatten(1).any(1) if tensor.ndim > 1 else tensor.detach() != 0
    return np.asarray(~alive.cpu().numpy()[member.elements].any(axis=1))
