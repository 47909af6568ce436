"""Take units out of a model for good, and prove that what is left computes what the masked model computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from tersenet.core.copying import copied
from tersenet.core.errors import ModelError
from tersenet.graph.attempt import Attempt
from tersenet.graph.attributes import Attribute
from tersenet.graph.blame import Failure
from tersenet.graph.channels import ChannelGraph, Group, as_inputs
from tersenet.graph.compare import samples_of
from tersenet.graph.edits import note
from tersenet.graph.slices import Choice, Units, chosen, take
from tersenet.graph.trace import Inputs, undisturbed


@dataclass(frozen=True)
class Removal:
    """What was done.

    removed: group → units that went. refused: group → why they stayed. difference: largest deviation of an output
    from that of the masked model, relative to the largest output. change: the same for the masked model against the
    model before, so that one sees how much the comparison could show. dropped, worst: in how many layers a removed
    channel's constant could not be folded exactly and was masked too, and the largest such constant.
    """

    removed: dict[str, np.ndarray] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    attributes: tuple[Attribute, ...] = ()
    difference: float = 0.0
    change: float = 0.0
    folded: int = 0
    dropped: int = 0
    worst: float = 0.0


def remove(
    model: nn.Module,
    graph: ChannelGraph,
    units: Units,
    *,
    inputs: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Removal:
    """Remove `units` (group → unit numbers) from `model`, in place.

    The masked model has the weights that make these channels zero; its outputs are compared with those of the smaller
    one on the example input of `graph`, on noise of its shape, and on `inputs` (real ones). Where they differ, or the
    model's own code cannot run with the new sizes, the groups at fault stay whole and are reported; `graph` remembers.
    Parameters stay the same objects, so an optimizer goes on with them; give it to have its state cut alike.

    Raises:
        ModelError: a group or unit that does not exist or cannot go; an optimizer whose state cannot be cut.
    """
    choice = chosen(graph, units)
    _check_state(model, optimizer)
    refused: dict[str, str] = {}
    samples = samples_of(graph.inputs, None if inputs is None else as_inputs(inputs))
    with undisturbed(model), _gradients_aside(model) as gradients:
        while choice:
            attempt = Attempt(model, graph, choice, samples)
            failure = attempt.run()
            if failure is None:
                note(model, attempt.attributes)
                _carry(attempt, gradients, optimizer)
                return _report(attempt, refused)
            attempt.restore()
            while failure is not None and choice:  # as long as the code breaks, it need not be compared
                for group in _culprits(model, graph, choice, samples, failure):
                    refused[group.name] = failure.reason
                    graph.refuse(group, failure.reason)
                    choice = {other: u for other, u in choice.items() if other.name != group.name}
                failure = Attempt(model, graph, choice, samples[:1]).probe()
    return Removal(refused=refused)


def try_out(model: nn.Module, graph: ChannelGraph, share: float = 0.5) -> Removal:
    """Remove `share` of the units of every group from a copy of `model`: what that refuses, `graph` then refuses."""
    units = {group.name: range(int(group.units * share)) for group in graph if group.prunable}
    return remove(copied(model), graph, units)


def _culprits(
    model: nn.Module, graph: ChannelGraph, choice: Choice, samples: list[Inputs], failure: Failure
) -> tuple[Group, ...]:
    """Of the groups that meet where it failed, those that fail alone; all of them if none does."""
    if not failure.guilty:
        return _bisect(model, graph, choice, samples)
    if len(failure.guilty) == 1:
        return failure.guilty
    alone = [g for g in failure.guilty if Attempt(model, graph, {g: choice[g]}, samples[:1]).probe() is not None]
    return tuple(alone) or failure.guilty


def _bisect(model: nn.Module, graph: ChannelGraph, choice: Choice, samples: list[Inputs]) -> tuple[Group, ...]:
    """Groups without which the removal works, found by halving."""
    groups = list(choice)
    if len(groups) == 1:
        return tuple(groups)
    halves = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    guilty: list[Group] = []
    for half in halves:
        part = {group: choice[group] for group in half}
        attempt = Attempt(model, graph, part, samples)
        if attempt.run() is not None:
            attempt.restore()
            guilty += _bisect(model, graph, part, samples)
        else:
            attempt.restore()
    return tuple(guilty) or tuple(halves[1])  # fine alone, not together


Gradients = dict[torch.Tensor, torch.Tensor]


@contextmanager
def _gradients_aside(model: nn.Module) -> Iterator[Gradients]:
    """Within, parameters have no gradients (which could not differ from them in shape); afterwards those given."""
    gradients: Gradients = {tensor: tensor.grad for tensor in model.parameters() if tensor.grad is not None}
    for tensor in gradients:
        tensor.grad = None
    try:
        yield gradients
    finally:
        for tensor, gradient in gradients.items():
            tensor.grad = gradient


def _carry(attempt: Attempt, gradients: Gradients, optimizer: torch.optim.Optimizer | None) -> None:
    """Cut gradients and the optimizer's state like their parameters."""
    for name, places in attempt.kept.items():
        tensor, shape = attempt.tensors[name], attempt.before[name].shape
        if tensor in gradients and gradients[tensor].shape == shape:
            gradients[tensor] = take(gradients[tensor], places)
        state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == shape:
                state[key] = take(value, places)


def _check_state(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """What an optimizer remembers must have the shape of the parameter, or be a number."""
    for name, tensor in model.named_parameters() if optimizer is not None else ():
        for key, value in optimizer.state.get(tensor, {}).items():  # type: ignore[union-attr]
            if isinstance(value, torch.Tensor) and value.numel() > 1 and value.shape != tensor.shape:
                raise ModelError(
                    f"{type(optimizer).__name__} keeps '{key}' of shape {list(value.shape)} for '{name}' of shape "
                    f"{list(tensor.shape)}, which cannot be cut with it; make a new optimizer after the removal"
                )


def _report(attempt: Attempt, refused: dict[str, str]) -> Removal:
    return Removal(
        {group.name: units for group, units in attempt.choice.items()},
        refused,
        attempt.attributes,
        attempt.difference,
        attempt.change,
        len(attempt.constants.folds),
        len(attempt.constants.dropped),
        attempt.constants.worst,
    )
