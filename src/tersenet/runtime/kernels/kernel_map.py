"""Which point of a cloud each tap of a kernel takes to which site: made once for all layers that share a cloud.

Tang et al. 2022, "TorchSparse: Efficient Point Cloud Inference Engine", arXiv 2204.10319, §2 and §4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tersenet.core.errors import ModelError
from tersenet.runtime.kernels.coordinates import (
    GOLDEN,
    Box,
    as_coordinates,
    marks_of,
    number,
    seat,
    shift_for,
    table_for,
    table_of,
)
from tersenet.runtime.kernels.jit import jit
from tersenet.runtime.kernels.threads import cuts, parts, spread

Sizes = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Pairs of a point and of the site where it counts, one tap after the other, taps in row-major order.

    inputs, outputs: int32 [pairs], rows of the points and of the sites. starts: int64 [taps + 1], first pair of each
        tap. sites: int64 [sites, 1 + axes], batch index and coordinates of the outputs. points: how many inputs.
    kernel: taps along each axis. own: the tap that takes every point to its own site, whose pairs are not listed.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    starts: np.ndarray
    sites: np.ndarray
    points: int
    kernel: Sizes
    own: int | None = None

    @property
    def sizes(self) -> np.ndarray:
        """How many pairs are listed for each tap: int64 [taps]."""
        return np.diff(self.starts)


def map_submanifold(coordinates: Any, kernel: Sizes, dilation: Sizes | None = None) -> KernelMap:
    """Outputs at the points alone, the kernel about each: a cloud stays as sparse as it is.

    Graham et al. 2018, "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks", arXiv 1711.10275, §3.
    coordinates: int32 or int64 [points, 1 + axes], the batch index first, in any order; neighbours are found faster,
        and convolved faster, where they stand near each other in the list too. kernel, dilation: a number for each
        axis. Raises DataError for other coordinates or two points on one site, ModelError for an even kernel.
    """
    window = _window(kernel, dilation=dilation)
    if not (window.kernel % 2).all():
        raise ModelError(f"the kernel of a submanifold convolution has a middle, so odd sizes, not {tuple(kernel)}")
    found = as_coordinates(coordinates, len(kernel))
    reach = window.dilation * (window.kernel // 2)
    box = Box.around(found)
    box = Box(box.low - reach, box.high + reach)
    keys = number(found, box.low, box.steps)
    slots = table_of(keys, found)
    half = len(window.taps) // 2
    deltas = ((window.taps[:half] * window.dilation - reach) * box.steps).sum(1)
    # What a tap joins, the opposite tap joins the other way round: half of them need no look.
    inputs, outputs = neighbours(keys, slots, deltas)
    forth, back = inputs + outputs[::-1], outputs + inputs[::-1]
    sizes = [len(one) for one in inputs]
    starts = np.cumsum([0, *sizes, 0, *sizes[::-1]])
    return KernelMap(_joined(forth), _joined(back), starts, found, len(found), tuple(kernel), half)


def map_strided(
    coordinates: Any,
    kernel: Sizes,
    stride: Sizes | None = None,
    padding: Sizes | None = None,
    dilation: Sizes | None = None,
) -> KernelMap:
    """Outputs at every site that the kernel takes a point to, in the order in which it does.

    The grid has no borders: padding places the kernel as in a dense convolution, and ends nothing. Of coordinates and
    errors the same holds as of `map_submanifold`; kernels may be even, stride and dilation are 1 and padding 0 where
    they are left out.
    """
    window = _window(kernel, stride, padding, dilation)
    found = as_coordinates(coordinates, len(kernel))
    held = Box.around(found)
    table_of(number(found, held.low, held.steps), found)
    far = window.dilation * (window.kernel - 1)
    box = Box((held.low + window.padding - far) // window.stride, (held.high + window.padding) // window.stride)
    keys, phases = anchors(found, window.padding, window.stride, box.low, box.steps)
    gaps = window.phases[:, None] - window.taps * window.dilation  # [phases, taps, 1 + axes]: from the anchor on
    reached = (gaps % window.stride == 0).all(2)
    _, taps = np.nonzero(reached)
    deltas = (gaps // window.stride * box.steps).sum(2)[reached]
    ends = np.concatenate([[0], reached.sum(1).cumsum()])
    sizes = np.bincount(phases, minlength=len(ends) - 1) @ reached
    starts = np.concatenate([[0], sizes.cumsum()])
    slots = table_for(min(starts[-1], math.prod(box.sizes)))
    inputs, outputs, sites = joins(keys, phases, ends, taps, deltas, starts, slots)
    return KernelMap(inputs, outputs, starts, box.sites(sites), len(found), tuple(kernel))


@dataclass(frozen=True, eq=False)
class _Window:
    """All int64 [1 + axes], for the batch index and each axis; the batch index is an axis of one tap."""

    kernel: np.ndarray
    stride: np.ndarray
    padding: np.ndarray
    dilation: np.ndarray

    @property
    def taps(self) -> np.ndarray:
        return np.indices(tuple(self.kernel)).reshape(len(self.kernel), -1).T

    @property
    def phases(self) -> np.ndarray:
        """Where a point can stand between two steps of the kernel, in row-major order."""
        return np.indices(tuple(self.stride)).reshape(len(self.stride), -1).T


def _window(
    kernel: Sizes, stride: Sizes | None = None, padding: Sizes | None = None, dilation: Sizes | None = None
) -> _Window:
    axes = len(kernel)
    held = {"kernel": kernel, "stride": stride or (1,) * axes, "dilation": dilation or (1,) * axes}
    held["padding"] = padding or (0,) * axes
    for name, sizes in held.items():
        least = 0 if name == "padding" else 1
        if not axes or len(sizes) != axes or min(sizes) < least:
            raise ModelError(f"{name} is a whole number of at least {least} for each axis, not {sizes}")
    return _Window(**{n: np.array([0 if n == "padding" else 1, *s], np.int64) for n, s in held.items()})


def _joined(lists: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(lists) if lists else np.zeros(0, np.int32)


def neighbours(keys: np.ndarray, slots: np.ndarray, deltas: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each delta the points whose key is that of another plus delta, and these others: lists of int32 [pairs]."""
    marks = marks_of(keys)
    found = np.empty((2, len(deltas), len(keys)), np.int32)  # memory is taken where it is written, for pairs alone
    counts = np.zeros(len(deltas), np.int64)
    shares = cuts(len(deltas), parts(len(keys) * len(deltas)))
    spread(look, [(keys, slots, marks, deltas, a, b, found, counts) for a, b in shares])
    inputs, outputs = ([row[:count] for row, count in zip(side, counts, strict=True)] for side in found)
    return inputs, outputs


@jit
def look(keys, slots, marks, deltas, start, end, found, counts):  # type: ignore[no-untyped-def]
    """found[0, t] become the points at the keys of the points found[1, t] plus deltas[t], counts[t] many."""
    shift, mark_shift = shift_for(len(slots)), shift_for(len(marks))
    for t in range(start, end):
        inputs, outputs, delta = found[0, t], found[1, t], deltas[t]
        likely = np.uint64(0)
        for i in range(len(keys)):
            key = np.uint64(keys[i] + delta)
            outputs[likely] = i
            word = marks[((key >> np.uint64(6)) * GOLDEN) >> mark_shift]
            likely += (word >> (key & np.uint64(63))) & np.uint64(1)
        count = np.uint64(0)
        for c in range(likely):
            i = outputs[c]
            key = keys[np.uint64(i)] + delta
            place = slots[seat(key, keys, slots, shift)]
            inputs[count], outputs[count] = place, i
            count += np.uint64(place >= 0)
        counts[t] = count


@jit
def anchors(coordinates, padding, stride, low, steps):  # type: ignore[no-untyped-def]
    """The last site whose first tap lies at or before each point, as a number, int64 [points]; and how far beyond that
    tap the point stands, its phase, less than a stride on each axis, as a row-major number, int32 [points]."""
    points, axes = coordinates.shape
    keys, phases = np.zeros(points, np.int64), np.zeros(points, np.int32)
    for i in range(points):
        for axis in range(axes):
            at = coordinates[i, axis] + padding[axis]
            step = at // stride[axis]
            keys[i] += (step - low[axis]) * steps[axis]
            phases[i] = phases[i] * stride[axis] + at - step * stride[axis]
    return keys, phases


@jit
def joins(keys, phases, ends, taps, deltas, starts, slots):  # type: ignore[no-untyped-def]
    """Pairs as of KernelMap, and the numbers of the sites, int64 [sites], in the order in which they are met.

    A point of phase p goes by taps[ends[p] : ends[p + 1]], to the sites at its key plus the deltas.
    """
    shift, next_ = shift_for(len(slots)), starts.copy()
    pairs = starts[-1]
    inputs, outputs = np.empty(pairs, np.int32), np.empty(pairs, np.int32)
    sites, count = np.empty(pairs, np.int64), 0
    for i in range(len(keys)):
        for k in range(ends[phases[i]], ends[phases[i] + 1]):
            key, tap = keys[i] + deltas[k], taps[k]
            slot = seat(key, sites, slots, shift)
            if slots[slot] < 0:
                slots[slot], sites[count] = count, key
                count += 1
            inputs[next_[tap]], outputs[next_[tap]] = i, slots[slot]
            next_[tap] += 1
    return inputs, outputs, sites[:count].copy()
