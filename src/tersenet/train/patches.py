"""What a convolution reads to compute single elements of its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F


def patches(
    x: torch.Tensor, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, at: torch.Tensor
) -> torch.Tensor:
    """Patches of `x` (N, C, *places) or (C, *places) for output positions `at`: (len(at), C, *kernel).

    at: numbers of output positions, row-major in (N, *places of the output). padding: as torch's convolutions take it,
    with zeros, 'valid' and 'same' included. The columns of a patch are in the order of those of F.unfold.
    """
    rank = len(kernel)
    x = x if x.ndim == rank + 2 else x[None]
    stride, dilation = _each(stride, rank), _each(dilation, rank)
    x = F.pad(x, _margins(padding, kernel, dilation))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    places = [(n - span) // s + 1 for n, span, s in zip(x.shape[2:], spans, stride, strict=True)]
    steps = x.stride()[2:]
    view = x.as_strided(  # all patches, without a copy
        (x.shape[0], *places, x.shape[1], *kernel),
        (
            x.stride(0),
            *(step * s for step, s in zip(steps, stride, strict=True)),
            x.stride(1),
            *(step * d for step, d in zip(steps, dilation, strict=True)),
        ),
    )
    return view[torch.unravel_index(at, (x.shape[0], *places))]


def _margins(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Zeros before and after each dimension, the last one first, as F.pad wants them."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in _each(padding, len(kernel))]
    return [margin for side in reversed(sides) for margin in side]


def _each(value: Any, rank: int) -> list[int]:
    """One number for each dimension."""
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    return numbers * rank if len(numbers) == 1 else numbers
