"""How far outputs are apart, and what is put in to find out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tersenet.graph.trace import Inputs


def tensors_in(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def shape_of(tensor: torch.Tensor) -> torch.Size:
    return tensor.shape


def distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Largest |a − b| over largest |b|, of all outputs; NaN and infinity must be at the same places."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape:
            return float("inf")
        a, b = a.detach().double(), b.detach().double()
        same = (a == b) | (a.isnan() & b.isnan())
        scale = b[b.isfinite()].abs().max().clamp_min(1e-12) if b.isfinite().any() else torch.tensor(1.0)
        gap = torch.where(same, 0.0, (a - b).abs().nan_to_num(nan=torch.inf, posinf=torch.inf))
        worst = max(worst, float((gap.max() if gap.numel() else torch.tensor(0.0)) / scale))
    return worst


def tolerance(tensors: Mapping[str, torch.Tensor]) -> float:
    """Room for the other order in which the same sums are added: 2e-5 in fp32, more in shorter formats."""
    precisions = [torch.finfo(t.dtype).eps for t in tensors.values() if t.is_floating_point()]
    return max(2e-5, 16 * max(precisions, default=0.0))


def samples_of(example: Inputs, real: Inputs | None) -> list[Inputs]:
    """The example, noise like it, and real inputs; the first two differ in every float."""
    generator = torch.Generator().manual_seed(0)

    def noisy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if not value.is_floating_point():  # indices must stay what they may be: the same ones at other places
            return value.roll(1, -1) if value.ndim > 1 else value
        noise = torch.randn(value.shape, generator=generator).to(value.device, value.dtype)
        return value + noise * value.std().nan_to_num(1.0).clamp_min(0.1) if value.numel() > 1 else value

    samples = [example] if real is None else [example, real]
    return [*samples, pytree.tree_map(noisy, example)]
