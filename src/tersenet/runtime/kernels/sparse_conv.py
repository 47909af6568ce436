"""Convolution on clouds of points: gather what a tap takes along, multiply by its weights, scatter to where it counts.

Tang et al. 2022, "TorchSparse: Efficient Point Cloud Inference Engine", arXiv 2204.10319, §4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code
from tersenet.core.errors import DataError, ModelError
from tersenet.forms.form import decode
from tersenet.runtime.kernels.inputs import as_rows
from tersenet.runtime.kernels.jit import jit
from tersenet.runtime.kernels.kernel_map import KernelMap
from tersenet.runtime.kernels.threads import cuts, parts, spread

CACHE = 1 << 20
"""Bytes that are gathered and multiplied at a time on each thread, so that they stay in the second cache."""
TOLERANCE = 0.25
"""Share of a batched product that may be padding, where nothing else is asked for."""


@dataclass(frozen=True, eq=False)
class SparseConv:
    """weight: float32 [taps, channels, filters], taps in row-major order. kernel: taps along each axis."""

    weight: np.ndarray
    kernel: tuple[int, ...]

    def __call__(self, x: Any, maps: KernelMap, tolerance: float = TOLERANCE) -> np.ndarray:
        """Features of the sites `maps.sites`, float32 [sites, filters], of those of the points, float32 [points,
        channels] in the order of the coordinates that the maps were made of.

        tolerance: which share of a batched product may be padding; with 0 only taps of as many pairs are multiplied
            together, as opposite ones are in a submanifold convolution, and with a negative number none are.
        Raises DataError for another shape or type, or maps of another kernel.
        """
        inputs = self._checked(x, maps)
        weight = torch.from_numpy(self.weight)
        if maps.own is None:
            out = np.zeros((len(maps.sites), self.weight.shape[2]), np.float32)
        else:
            out = torch.mm(torch.from_numpy(inputs), weight[maps.own]).numpy()
        most = CACHE * torch.get_num_threads() // (4 * sum(self.weight.shape[1:]))
        groups = groups_of(maps.sizes, tolerance, most)
        rows = max([most, *(len(taps) for taps in groups)])
        buffers = torch.zeros(rows * self.weight.shape[1]), torch.empty(rows * self.weight.shape[2])
        for taps in groups:
            add_group(inputs, weight[taps], maps, taps, rows // len(taps), buffers, out)
        return out

    def _checked(self, x: Any, maps: KernelMap) -> np.ndarray:
        if maps.kernel != self.kernel:
            raise DataError(
                f"the maps are those of a kernel {maps.kernel}, and the filters have a kernel {self.kernel}"
            )
        inputs = as_rows(x, self.weight.shape[1])
        if np.ndim(x) != 2 or len(inputs) != maps.points:
            wanted = [maps.points, self.weight.shape[1]]
            raise DataError(f"the kernel takes features {wanted}, a row for each point, not {list(np.shape(x))}")
        return inputs


def pack_sparse_conv(weight: Code | np.ndarray) -> SparseConv:
    """Of a code of any form, or an array [filters, channels, *kernel]. Raises ModelError for another shape."""
    held = decode(weight).float().numpy() if isinstance(weight, Code) else np.asarray(weight, np.float32)
    if held.ndim < 3:
        raise ModelError(f"filters have an axis for filters, one for channels and at least one more, not {held.shape}")
    taps = np.moveaxis(held.reshape(*held.shape[:2], -1), 2, 0)
    return SparseConv(np.ascontiguousarray(taps.transpose(0, 2, 1)), held.shape[2:])


def groups_of(sizes: Sequence[int] | np.ndarray, tolerance: float, most: int) -> list[list[int]]:
    """Taps whose products are computed as one batch, each padded to the longest; taps without pairs are in no group.

    From the longest on, a tap joins the group before it as long as at most `tolerance` of the rows are padding.
    Taps of at least `most` pairs fill a product by themselves, and stay alone. This is adaptive grouping, with the
    paper's ε and S; there the taps are tried in their own order, which finds fewer of about the same size.
    """
    groups: list[list[int]] = []
    longest = pairs = 0
    numbers = [int(size) for size in sizes]
    for tap in sorted(filter(numbers.__getitem__, range(len(numbers))), key=numbers.__getitem__, reverse=True):
        filled = pairs + numbers[tap]
        if groups and longest < most and longest * (len(groups[-1]) + 1) * (1 - tolerance) <= filled:
            groups[-1].append(tap)
            pairs = filled
        else:
            groups.append([tap])
            longest = pairs = numbers[tap]
    return groups


def add_group(
    x: np.ndarray,
    weight: torch.Tensor,
    maps: KernelMap,
    taps: list[int],
    most: int,
    buffers: tuple[torch.Tensor, torch.Tensor],
    out: np.ndarray,
) -> None:
    """Adds to `out` what the taps of a group make of `x`, at most so many rows of each at a time.

    buffers: with room for what is gathered and for its products. Rows beyond the last pair of a tap hold what was
    there before; nobody reads what is made of them.
    """
    starts, ends = maps.starts[taps], maps.starts[np.add(taps, 1)]
    longest = int((ends - starts).max())
    rows = min(longest, most)
    gathered, products = (
        buffer[: len(taps) * rows * width].view(len(taps), rows, width)
        for buffer, width in zip(buffers, weight.shape[1:], strict=True)
    )
    held, made = gathered.numpy(), products.numpy()
    reads, writes = cuts(rows, parts(held.size)), cuts(made.shape[2], parts(made.size), 16)
    for done in range(0, longest, rows):
        spread(gather, [(x, maps.inputs, starts + done, ends, a, b, held) for a, b in reads])
        torch.bmm(gathered, weight, out=products)
        spread(scatter, [(made, maps.outputs, starts + done, ends, a, b, out) for a, b in writes])


@jit
def gather(x, inputs, starts, ends, low, high, out):  # type: ignore[no-untyped-def]
    """out[g, r] = x[inputs[starts[g] + r]] for the rows from low to high, as far as there are pairs before ends[g]."""
    for g in range(len(starts)):
        for r in range(low, min(high, ends[g] - starts[g])):
            row, source = out[g, r], x[np.uint64(inputs[starts[g] + r])]
            for c in range(len(row)):
                row[c] = source[c]


@jit
def scatter(products, outputs, starts, ends, low, high, out):  # type: ignore[no-untyped-def]
    """out[outputs[starts[g] + r]] += products[g, r] in the filters from low to high, so that threads never meet."""
    for g in range(len(starts)):
        for r in range(min(products.shape[1], ends[g] - starts[g])):
            row, source = out[np.uint64(outputs[starts[g] + r]), low:high], products[g, r, low:high]
            for c in range(len(row)):
                row[c] += source[c]
