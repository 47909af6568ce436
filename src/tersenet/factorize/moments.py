"""What a layer multiplies with its weight on calibration data: mean and second moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from tersenet.graph.trace import repeatable, undisturbed
from tersenet.train.patches import patches

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Moment:
    """Of the rows x that each group of the layer reads, one for each position of its output, float64.

    mean: E[x], [groups, M]. second: E[x xᵀ], [groups, M, M]. M = inputs · places of the kernel of one group.
    """

    mean: torch.Tensor
    second: torch.Tensor

    @property
    def covariance(self) -> torch.Tensor:
        return self.second - self.mean[:, :, None] * self.mean[:, None, :]


def moment_of(
    model: nn.Module,
    layer: nn.Module,
    batches: Sequence[Inputs],
    samples: int,
    generator: Callable[[int], torch.Generator],
) -> Moment | None:
    """Over at most `samples` positions of each call of `layer` (linear or a convolution) on each batch, in eval mode;
    which ones is drawn by `generator(number of the call)`. None if the model does not call it."""
    sums = _Sums(samples, generator)
    with undisturbed(model), repeatable(model):
        handle = layer.register_forward_pre_hook(sums.add, with_kwargs=True)
        try:
            for inputs in batches:
                model(*inputs)
        finally:
            handle.remove()
    return sums.moment()


class _Sums:
    """Σ x and Σ x xᵀ over the calls of one layer."""

    def __init__(self, samples: int, generator: Callable[[int], torch.Generator]) -> None:
        self.samples, self.generator = samples, generator
        self.first: Any = 0.0
        self.second: Any = 0.0
        self.rows = self.calls = 0

    def add(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        x = args[0] if args else kwargs["input"]
        drawn = self.generator(self.calls)
        self.calls += 1
        rows = (_read if isinstance(layer, _ConvNd) else _flat)(layer, x, self.samples, drawn).double()
        self.first, self.second = self.first + rows.sum(1), self.second + rows.mT @ rows
        self.rows += rows.shape[1]

    def moment(self) -> Moment | None:
        return Moment(self.first / self.rows, self.second / self.rows) if self.rows else None


def _flat(layer: nn.Module, x: torch.Tensor, samples: int, drawn: torch.Generator) -> torch.Tensor:
    """[1, rows, inputs]."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[_some(len(rows), samples, drawn).to(x.device)][None]


def _read(layer: Any, x: torch.Tensor, samples: int, drawn: torch.Generator) -> torch.Tensor:
    """Patches, [groups, rows, inputs · places]."""
    padding = layer.padding
    x = x if x.ndim == len(layer.kernel_size) + 2 else x[None]
    if layer.padding_mode != "zeros":
        x, padding = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode), 0
    with torch.device("meta"):
        empty = torch.empty(x.shape[0], 1, *x.shape[2:])
        kernel = torch.empty(1, 1, *layer.kernel_size)
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[len(layer.kernel_size) - 1]
        positions = convolve(empty, kernel, None, layer.stride, padding, layer.dilation).numel()
    at = _some(positions, samples, drawn).to(x.device)
    found = patches(x, layer.kernel_size, layer.stride, padding, layer.dilation, at)
    return found.reshape(len(at), layer.groups, -1).movedim(1, 0)


def _some(count: int, most: int, drawn: torch.Generator) -> torch.Tensor:
    """Numbers of all positions, or of `most` of them at random."""
    return torch.arange(count) if count <= most else torch.randperm(count, generator=drawn)[:most]
