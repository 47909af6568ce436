"""Families of groups of a weight: filters, channels, filter shapes, the whole layer, single entries (Wen et al. 2016,
"Learning Structured Sparsity in Deep Neural Networks", arXiv 1608.03665, §3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tersenet.forms import Target, weight_of, weights

FAMILIES = ("elements", "shapes", "channels", "filters", "depth")
"""From the smallest groups to the largest, so that of two that nest, the inner one comes first."""


def by_role(target: Target, weight: torch.Tensor) -> torch.Tensor:
    """A view of `weight` as (groups, outputs, inputs, *positions), the first three counted within one group of a
    grouped convolution, whose filters see only the channels of their own group.

    Convolution: filters × channels × places of the kernel. Linear: rows × columns. Embedding: dimensions × tokens.
    Any other weight: dimension 0 × dimension 1 × the rest. A vector has one input.
    """
    module: Any = target.module
    convolution = isinstance(module, _ConvNd) and target.attribute == "weight"
    split = module.groups if convolution else 1
    view = weight.view(split, weight.shape[0] // split, *weight.shape[1:])
    if weight.ndim < 2:
        return view.unsqueeze(-1)
    swapped = module.transposed if convolution else isinstance(module, nn.Embedding | nn.EmbeddingBag)
    return view.transpose(1, 2) if swapped else view


def norms(view: torch.Tensor, family: str) -> torch.Tensor:
    """‖w_g‖₂ of each group of `family` in a view `by_role`, of a shape that broadcasts against it.

    Its gradient is w_g/‖w_g‖, and 0 (a subgradient) where the group is zero.
    """
    summed = _summed(view, family)
    return torch.linalg.vector_norm(view, dim=summed, keepdim=True) if summed else view.abs()


def group_size(view: torch.Tensor, family: str) -> int:
    """Entries in each group."""
    return math.prod(view.shape[dimension] for dimension in _summed(view, family))


def _summed(view: torch.Tensor, family: str) -> tuple[int, ...]:
    """Dimensions of the view that one group extends over."""
    places = tuple(range(3, view.ndim))
    return {
        "elements": (),
        "shapes": (1,),  # W[:, c, m, k]
        "channels": (1, *places),  # W[:, c, :, :]
        "filters": (2, *places),  # W[n, :, :, :]
        "depth": tuple(range(view.ndim)),
    }[family]


@dataclass(frozen=True)
class Left:
    """How many groups of a family hold an entry other than zero, of how many."""

    left: int
    total: int

    def __str__(self) -> str:
        return f"{self.left:,} of {self.total:,}"


@dataclass(frozen=True)
class Structure:
    """What is left of one weight, as tables 1 to 3 of Wen et al. count it.

    filters, channels, shapes: of a convolution as named; otherwise outputs, inputs, and (input, place) pairs. γ of a
        batch norm is counted as filters only. layer, kind: the first layer that computes with the weight and its class.
    """

    name: str
    layer: str
    kind: str
    shape: tuple[int, ...]
    filters: Left
    channels: Left | None
    shapes: Left | None
    entries: Left

    def __str__(self) -> str:
        """'conv1: 5 of 20 filters, 1 of 1 channels, 21 of 25 filter shapes left'."""
        name = self.name.removesuffix(".weight")
        if self.channels is None or self.shapes is None:
            return f"{name}: {self.filters} {'γ' if 'Norm' in self.kind else 'entries'} left"
        if "Conv" in self.kind:
            return f"{name}: {self.filters} filters, {self.channels} channels, {self.shapes} filter shapes left"
        nouns = ("rows", "columns") if self.kind == "Linear" else ("outputs", "inputs")
        return f"{name}: {self.filters} {nouns[0]}, {self.channels} {nouns[1]} left"


def structure(model: nn.Module) -> tuple[Structure, ...]:
    """Filters, channels and filter shapes that are not zero, of every weight of two and more dimensions and of every
    γ of a batch norm, in the model's order; a shared weight counts once."""
    return tuple(structure_of(target) for target in weights(model) if not target.vector or is_gamma(target))


def structure_of(target: Target) -> Structure:
    view = by_role(target, weight_of(target))
    channels, shapes = (None, None) if target.vector else (_left(view, "channels"), _left(view, "shapes"))
    layer, filters, entries = target.slots[0].layer, _left(view, "filters"), _left(view, "elements")
    return Structure(target.name, layer, target.kind, target.shape, filters, channels, shapes, entries)


def is_gamma(target: Target) -> bool:
    """Whether the weight is the scale of a batch norm."""
    return isinstance(target.module, _BatchNorm) and target.attribute == "weight"


def _left(view: torch.Tensor, family: str) -> Left:
    summed = _summed(view, family)
    held = view != 0
    alive = held.sum(dim=summed) if summed else held
    return Left(int(torch.count_nonzero(alive)), alive.numel())
