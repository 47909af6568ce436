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

CACHE = 1 << 21
"""Bytes of features of points and sites that are worked on at a time on each thread, and of what is gathered of them
and multiplied: few enough to stay in near caches, enough for products worth a call."""
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
        cache = CACHE * torch.get_num_threads()
        most = max(cache // (4 * sum(self.weight.shape[1:])), 1)
        tiles = max(-(-(inputs.nbytes + out.nbytes) // cache), 1)
        groups = [(taps, weight[taps]) for taps in groups_of(-(-maps.sizes // tiles), tolerance, most)]
        # Points that follow each other are near each other in a sorted cloud, and so are the pairs at the same share of
        # every tap: what one tile reads and writes stays in the cache from tap to tap.
        for tile in range(tiles):
            starts, ends = (maps.starts[:-1] + maps.sizes * share // tiles for share in (tile, tile + 1))
            for taps, held in groups:
                add_group(inputs, held, maps, starts[taps], ends[taps], max(most // len(taps), 1), out)
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
    starts: np.ndarray,
    ends: np.ndarray,
    most: int,
    out: np.ndarray,
) -> None:
    """Adds to `out` what the taps of a group, of weight [taps, channels, filters], make of `x` by the pairs between
    their starts and ends, at most so many of each at a time.

    Rows beyond the last pair of a tap hold what was there before; nobody reads what is made of them.
    """
    longest = int((ends - starts).max())
    rows = -(-longest // max(-(-longest // most), 1))  # all shares about as long
    gathered = torch.zeros(len(weight), rows, weight.shape[1])
    products = torch.empty(len(weight), rows, weight.shape[2])
    held, made = gathered.numpy(), products.numpy()
    reads, writes = cuts(rows, parts(held.size)), cuts(made.shape[2], parts(made.size), 16)
    for done in range(0, longest, max(rows, 1)):
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
