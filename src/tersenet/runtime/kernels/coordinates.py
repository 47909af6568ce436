"""Where the points of a cloud stand: sites as single numbers, and a hash table that finds a point by its site."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tersenet.core.errors import DataError
from tersenet.runtime.kernels.jit import jit

FARTHEST = 1 << 40
"""Coordinates beyond are refused, so that nothing computed from them leaves 64 bits."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: multiples of it are spread evenly (Knuth, The Art of Computer Programming 3, §6.4)."""


def as_coordinates(x: Any, axes: int) -> np.ndarray:
    """`x` as contiguous int64 [points, 1 + axes], the batch index first. Raises DataError for another shape or type."""
    found = np.asarray(x)
    if found.dtype not in (np.int32, np.int64):
        raise DataError(f"coordinates are of type int32 or int64, not {found.dtype}")
    if found.ndim != 2 or found.shape[1] != 1 + axes:
        wanted = f"[points, {1 + axes}], a batch index and {axes} coordinates each"
        raise DataError(f"a kernel of {axes} axes takes coordinates {wanted}, not {list(found.shape)}")
    if found.size and max(int(found.max()), -int(found.min())) > FARTHEST:
        raise DataError(f"coordinates go from {found.min()} to {found.max()}, beyond ±2^40")
    return np.ascontiguousarray(found, np.int64)


@dataclass(frozen=True, eq=False)
class Box:
    """The sites from `low` to `high`, both int64 [1 + axes], numbered from 0 in row-major order."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def around(cls, coordinates: np.ndarray) -> Box:
        """The smallest one that holds all points; of a cloud without any, the origin."""
        if not len(coordinates):
            return cls(*np.zeros((2, coordinates.shape[1]), np.int64))
        return cls(*bounds(coordinates))

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.high - self.low + 1)

    @property
    def steps(self) -> np.ndarray:
        """By how much the number of a site grows along each axis: int64 [1 + axes].

        Raises DataError where 63 bits do not number all the sites.
        """
        if math.prod(self.sizes) >= 1 << 63:
            sizes = " × ".join(map(str, self.sizes))
            raise DataError(
                f"the cloud spans {sizes} sites, more than 2^63: voxels are too small, or a point is astray"
            )
        return np.array([math.prod(self.sizes[axis + 1 :]) for axis in range(len(self.sizes))], np.int64)

    def sites(self, keys: np.ndarray) -> np.ndarray:
        """Coordinates int64 [sites, 1 + axes] of the sites with these numbers."""
        found: np.ndarray = np.stack(np.unravel_index(keys, self.sizes), 1) + self.low
        return found


def table_for(count: int) -> np.ndarray:
    """An empty hash table for so many keys: int32 [2^n], more than half of which stays free, all −1."""
    return np.full(2 << max(int(count).bit_length(), 4), -1, np.int32)


def table_of(keys: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """The hash table of a cloud's keys. Raises DataError where two points stand on one site."""
    slots = table_for(len(keys))
    first, second = enter(keys, slots)
    if first >= 0:
        where = coordinates[first].tolist()
        raise DataError(f"points {first} and {second} have the same batch index and coordinates, {where}")
    return slots


@jit
def bounds(coordinates):  # type: ignore[no-untyped-def]
    """Lowest and highest coordinate on each axis, of one point or more: int64 [2, 1 + axes]."""
    found = np.stack((coordinates[0], coordinates[0]))
    for i in range(len(coordinates)):
        for axis in range(coordinates.shape[1]):
            found[0, axis] = min(found[0, axis], coordinates[i, axis])
            found[1, axis] = max(found[1, axis], coordinates[i, axis])
    return found


@jit
def number(coordinates, low, steps):  # type: ignore[no-untyped-def]
    """The numbers of the sites of points, int64 [points]."""
    points, axes = coordinates.shape
    keys = np.zeros(points, np.int64)
    for i in range(points):
        for axis in range(axes):
            keys[i] += (coordinates[i, axis] - low[axis]) * steps[axis]
    return keys


@jit
def shift_for(length):  # type: ignore[no-untyped-def]
    """By how many bits to shift a hash of 64 bits, so that it is a place among `length`, a power of two above one."""
    shift = np.uint64(64)
    while np.uint64(length) > np.uint64(1):
        length, shift = np.uint64(length) >> np.uint64(1), shift - np.uint64(1)
    return shift


@jit
def seat(key, keys, slots, shift):  # type: ignore[no-untyped-def]
    """The slot that holds the place of `key` in `keys`, or, where it is not among them, the free slot for it."""
    last = np.uint64(len(slots) - 1)
    slot = (np.uint64(key) * GOLDEN) >> shift
    while slots[slot] >= 0 and keys[np.uint64(slots[slot])] != key:
        slot = (slot + np.uint64(1)) & last
    return slot


@jit
def enter(keys, slots):  # type: ignore[no-untyped-def]
    """Puts the place of every key into an empty table; stops at the first that was there: places of both, or −1, −1."""
    shift = shift_for(len(slots))
    for i in range(len(keys)):
        slot = seat(keys[i], keys, slots, shift)
        if slots[slot] >= 0:
            return np.int64(slots[slot]), np.int64(i)
        slots[slot] = i
    return np.int64(-1), np.int64(-1)


@jit
def marks_of(keys):  # type: ignore[no-untyped-def]
    """A bit for each key, in words by hash and within them by its last six bits: uint64 [2^n], 16 to 32 bits a key.

    Where a key's bit is 0, the key is in no table. Most neighbours of a point in a sparse cloud are free sites, which
    these bits, in a near cache and read without a branch, tell some ten times faster than a table.
    """
    length = 2
    while length < len(keys) // 4:
        length *= 2
    marks, shift = np.zeros(length, np.uint64), shift_for(length)
    for key in keys:
        marks[((np.uint64(key) >> np.uint64(6)) * GOLDEN) >> shift] |= np.uint64(1) << (np.uint64(key) & np.uint64(63))
    return marks
