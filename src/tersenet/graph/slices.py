"""What a choice of units means for tensors and sizes: which elements stay, and what a dimension measures then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.graph.axes import Axis, Dim, expand
from tersenet.graph.channels import ChannelGraph, Group

Choice = Mapping[Group, np.ndarray]
"""Group → its units that go, in ascending order."""

Units = Mapping[str, Sequence[int] | np.ndarray]
"""Group's name → numbers of its units."""

Kept = dict[str, dict[int, np.ndarray]]
"""Tensor → dimension → the elements that stay, in ascending order."""


def chosen(graph: ChannelGraph, units: Units) -> dict[Group, np.ndarray]:
    """The choice that gives for each group by name the units to remove.

    Raises:
        ModelError: no such group, one that cannot be pruned, a unit that it does not have, or all its units.
    """
    result = {}
    for name, wanted in units.items():
        group = next((group for group in graph if group.name == name), None)
        if group is None:
            raise ModelError(f"channels: there is no group '{name}'")
        if group.reason is not None:
            raise ModelError(f"channels: no unit of '{name}' can go: {group.reason}")
        gone = np.unique(np.asarray(wanted, dtype=np.int64))
        if gone.size and (gone[0] < 0 or gone[-1] >= group.units):
            raise ModelError(f"channels: '{name}' has units 0 to {group.units - 1}, not {gone[0]} to {gone[-1]}")
        if gone.size == group.units:
            raise ModelError(f"channels: all {group.units} units of '{name}' would go; at least one must stay")
        if gone.size:
            result[group] = gone
    return result


def gone(choice: Choice, *roles: str) -> dict[str, dict[int, np.ndarray]]:
    """Tensor → dimension → elements of the chosen units, of members in `roles` (all, if none are named)."""
    found: dict[str, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for group, units in choice.items():
        for member in group.members:
            if not roles or member.role in roles:
                found[member.tensor][member.dim].append(member.elements[units].ravel())
    return {
        name: {dim: np.unique(np.concatenate(parts)) for dim, parts in places.items()} for name, places in found.items()
    }


def kept(choice: Choice, shapes: Mapping[str, torch.Size]) -> Kept:
    """What stays of every tensor that changes."""
    return {
        name: {dim: np.setdiff1d(np.arange(shapes[name][dim]), elements) for dim, elements in places.items()}
        for name, places in gone(choice).items()
    }


def take(tensor: torch.Tensor, places: Mapping[int, np.ndarray]) -> torch.Tensor:
    """The kept elements of `tensor`, in its memory format."""
    result = tensor
    for dim, elements in places.items():
        result = result.index_select(dim, torch.from_numpy(elements).to(tensor.device))
    for format_ in (torch.channels_last, torch.channels_last_3d):
        rank = 4 if format_ is torch.channels_last else 5
        if tensor.ndim == rank and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=format_):
            return result.contiguous(memory_format=format_)
    return result.contiguous()


def new_size(dim: Dim, lost: Mapping[Axis, int]) -> int:
    """What `dim` measures after each leaf has lost so many units."""
    size = 1
    for axis in expand(dim):
        if axis.segments is None:
            size *= axis.size - lost.get(axis, 0)
        else:
            size *= sum(new_size(segment, lost) for segment in axis.segments)
    return size


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
