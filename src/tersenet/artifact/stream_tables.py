"""Tables and streams of large tensors: bytes through `coding/lanes.py`, in parallel, where a sample says it pays."""

from __future__ import annotations

import numpy as np

from tersenet.artifact.entry import DTYPES, Account, Plane, Stream, Table
from tersenet.coding.histogram import entropy_bits
from tersenet.coding.lanes import CHUNK, NAME, Map, encode_bytes

SAMPLE = 1 << 12
"""Bytes looked at in each of `PLACES` places before a plane is coded."""

PLACES = 32
WORTH = 0.99
"""A plane is coded if a sample says that it will take less than this share of its bytes."""


def quick_table(name: str, array: np.ndarray, each: Map = map) -> Table:
    """A table of one dimension, split into the bytes of its numbers; those that look like noise stay as they are."""
    split = np.ascontiguousarray(array, DTYPES[array.dtype.name]).view(np.uint8).reshape(-1, array.dtype.itemsize)
    worth = [pays(split[:, place]) for place in range(split.shape[1])]
    if not any(worth):
        return Table(name, array.dtype.name, array.shape, False, (Plane("", split.reshape(-1).data),))
    planes = tuple(_plane(_column(split, place, each), worth[place], each) for place in range(split.shape[1]))
    return Table(name, array.dtype.name, array.shape, True, planes)


def quick_stream(name: str, symbols: np.ndarray, alphabet: int, zero: bool, each: Map = map) -> Stream:
    """Symbols of at most 8 bits, uint8 [n], as a stream."""
    payload, tables = encode_bytes(symbols, each)
    parts = each(_counts, (symbols[begin : begin + CHUNK] for begin in range(0, len(symbols), CHUNK)))
    entropy = entropy_bits(sum(parts, np.zeros(256, np.int64))) / 8
    return Stream(name, zero, len(symbols), alphabet, NAME, payload, Account(len(payload) - tables, 0, tables, entropy))


def pays(plane: np.ndarray) -> bool:
    """Whether a sample of bytes is coded to less than WORTH of its size, with the table of a chunk."""
    step = max(len(plane) // PLACES, SAMPLE)
    sample = np.concatenate([plane[begin : begin + SAMPLE] for begin in range(0, max(len(plane), 1), step)])
    counts = np.bincount(sample, minlength=256)
    bits = entropy_bits(counts) / max(len(sample), 1)
    tables = 8 * 3 * np.count_nonzero(counts) / max(min(len(plane), CHUNK), 1)
    return bool(bits + tables < 8 * WORTH)


def _column(split: np.ndarray, place: int, each: Map) -> np.ndarray:
    """One byte of each number, contiguous."""
    plane = np.empty(len(split), np.uint8)

    def copy(begin: int) -> None:
        plane[begin : begin + CHUNK] = split[begin : begin + CHUNK, place]

    for _ in each(copy, range(0, len(split), CHUNK)):
        pass
    return plane


def _plane(plane: np.ndarray, worth: bool, each: Map) -> Plane:
    if worth:
        payload, tables = encode_bytes(plane, each)
        if len(payload) < len(plane):
            return Plane(NAME, payload, tables)
    return Plane("", plane.data)


def _counts(chunk: np.ndarray) -> np.ndarray:
    from tersenet.coding.lanes_kernels import count

    counts = np.zeros(256, np.int64)
    count(chunk, counts)
    return counts
