"""The model of a weight matrix: which bits say an entry, and in which contexts each of them is predicted.

An entry is a whole number n. Its bits: is n ≠ 0; the sign; whether |n| ≥ 2, 4, 8, … one after the other until one says
no; then the binary digits of |n| after the first. Rows and channels of nothing but zeros are told first, and skipped.

The contexts are what the entries coded so far tell: how large those of this row and of this column were, which signs
the neighbours have, how large these are together, and where in the convolution kernel the entry lies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from tersenet.coding.mixing import RATE, begin, end, inlined, mixed_by_five, mixed_by_seven, narrow, plain_bit

compiled = njit(cache=True, nogil=True, error_model="numpy")
"""numba keeps what it compiled until this file changes, and does not look at `mixing`: touch this one with that."""

MARGIN = 2  # rows of zeros above, and columns on either side
NODES = 4  # bits with all contexts: n ≠ 0, sign, |n| ≥ 2, |n| ≥ 4
INPUTS = 7
TAIL_INPUTS = 5
LEADING = 7  # of the digits of |n|, those in these tree nodes (the first three) are mixed

SIGNS, LEVELS, PRODUCTS, SUMS, RECENT = 27 * 32, 16, 64, 32, 64
LEAST_PRODUCT = 20
TAIL = 1 + 2 * LEVELS + PRODUCTS + SUMS

ZERO_WEIGHTS = np.array([65536] + 2 * [20000] + 4 * [10000])
OTHER_WEIGHTS = np.array([65536] + 6 * [10000])


class Scan(NamedTuple):
    """How the cells lie, and what they may hold.

    rows, channels, kernel: entry (r, c, k) stands in row r, column c · kernel + k.
    width: of a convolution kernel's rows. lag: distance in columns of a second left neighbour, 0 if none.
    left: columns of zeros before each row; stride: cells from one row to the next.
    signed: there may be negative entries. depth: bits of the largest |n|.
    """

    rows: int
    channels: int
    kernel: int
    width: int
    lag: int
    left: int
    stride: int
    signed: int
    depth: int


class Model(NamedTuple):
    """slots: see `mixing`; starts: where the tables of the eight inputs begin. tail: slots for larger |n| alone.

    row_mean, column_mean: 4096 · mean |n| so far, as are the others' units; mean: of all, and how many they are.
    """

    slots: np.ndarray
    starts: np.ndarray
    weights: np.ndarray
    tail: np.ndarray
    tail_weights: np.ndarray
    digits: np.ndarray
    row_mean: np.ndarray
    column_mean: np.ndarray
    mean: np.ndarray


@compiled
def new_model(scan):  # type: ignore[no-untyped-def]
    columns = scan.channels * scan.kernel
    within = max(RECENT, 8 * scan.kernel)
    sizes = np.array([1, scan.rows, columns, SIGNS, PRODUCTS, SUMS, within])
    starts = NODES * (np.cumsum(sizes) - sizes)
    slots = np.zeros(NODES * sizes.sum(), dtype=np.uint32)
    slots[:NODES] = 1 << 31 | 1
    slots[0] = 1 << 29 | 1
    weights = np.empty(NODES * INPUTS, dtype=np.int64)
    for i in range(len(weights)):
        weights[i] = ZERO_WEIGHTS[i] if i < INPUTS else OTHER_WEIGHTS[i % INPUTS]
    tails = max(scan.depth - 3, 0) + (LEADING + 1) * min(max(scan.depth - 1, 0), 7)
    tail = np.zeros(max(tails, 1) * TAIL, dtype=np.uint32)
    tail[::TAIL] = 1 << 31 | 1
    tail_weights = np.empty(max(tails, 1) * TAIL_INPUTS, dtype=np.int64)
    for i in range(len(tail_weights)):
        tail_weights[i] = OTHER_WEIGHTS[i % TAIL_INPUTS]
    return Model(
        slots, starts, weights, tail, tail_weights, np.full(32, 1 << 31 | 1, dtype=np.uint32),
        np.zeros(scan.rows, dtype=np.int64), np.zeros(columns, dtype=np.int64), np.array([512, 2]),
    )  # fmt: skip


@inlined
def level(number):  # type: ignore[no-untyped-def]
    """Four steps an octave: 0 to 8 as they are, then 8 for 8 and 9, 9 for 10 and 11, … 12 for 16 to 19, …"""
    octaves = 0
    while number >= 8:
        number >>= 1
        octaves += 1
    return 4 * octaves + number


@inlined
def trit(n):  # type: ignore[no-untyped-def]
    return (n > 0) + 2 * (n < 0)


@inlined
def look_around(model, cells, at, scan, row, column, inner, found, recent):  # type: ignore[no-untyped-def]
    """Where the slots for the cell `at` are: those of its first bits, and of the rest of |n|.

    inner: its place in the kernel. found: nonzero entries of this kernel so far. recent: see `code_row`.
    """
    left, left2 = np.int64(cells[at - 1]), np.int64(cells[at - 2])
    up, up2 = np.int64(cells[at - scan.stride]), np.int64(cells[at - 2 * scan.stride])
    beside = abs(np.int64(cells[at - scan.stride - 1])) + abs(np.int64(cells[at - scan.stride + 1]))
    far, near, near2 = np.int64(0), np.int64(0), np.int64(0)
    if scan.kernel > 1:
        far, near, near2 = (
            np.int64(cells[at - scan.kernel]), np.int64(cells[at - scan.width]), np.int64(cells[at - scan.width + 1])
        )  # fmt: skip
    elif scan.lag:
        far, near, near2 = (
            np.int64(cells[at - scan.lag]), np.int64(cells[at - scan.lag + 1]), np.int64(cells[at - scan.lag - 1])
        )  # fmt: skip
    signs = (trit(left) * 3 + trit(up)) * 3 + trit(far)
    sizes = (left2 != 0) * 16 + (up2 != 0) * 8 + (abs(left) > 1) * 4 + (abs(up) > 1) * 2 + (near != 0)
    far, near, near2 = abs(far), abs(near), abs(near2)
    together = 2 * abs(left) + abs(left2) + 2 * abs(up) + abs(up2) + beside + 2 * far + near + near2
    within = recent >> 6
    if scan.kernel > 1:
        within = inner * 8 + min(found, 7)
    mean, of_row, of_column = level(model.mean[0]), level(model.row_mean[row]), level(model.column_mean[column])
    row_level = min(max((of_row - mean >> 1) + 8, 0), LEVELS - 1)
    column_level = min(max((of_column - mean >> 1) + 8, 0), LEVELS - 1)
    product = min(max(of_row + of_column - mean - LEAST_PRODUCT, 0), PRODUCTS - 1)
    total = min(level(together), SUMS - 1)
    starts = model.starts
    return (
        (
            0, starts[1] + NODES * row, starts[2] + NODES * column, starts[3] + NODES * (signs * 32 + sizes),
            starts[4] + NODES * product, starts[5] + NODES * total, starts[6] + NODES * within,
        ),
        (0, 1 + row_level, 1 + LEVELS + column_level, 1 + 2 * LEVELS + product, 1 + 2 * LEVELS + PRODUCTS + total),
    )  # fmt: skip


@inlined
def code_entry(model, scan, around, coder, data, decoding, n):  # type: ignore[no-untyped-def]
    """Bits with all contexts: node 0, n ≠ 0; 1, n < 0; 2 and 3, |n| ≥ 2 and |n| ≥ 4. The rest is for `code_rest`."""
    magnitude = abs(n)
    node, octave, negative = 0, 0, 0
    while node < NODES and (node < 2 or node <= scan.depth):
        bit = 1 if (n < 0 if node == 1 else magnitude >> max(node - 1, 0)) else 0
        bit = mixed_by_seven(
            model.slots, around[0], node, model.weights, node * INPUTS, coder, data, decoding, bit
        )  # fmt: skip
        if node == 0:
            if bit == 0:
                return np.int64(0)
            node = 1 if scan.signed else 2
        elif node == 1:
            negative = bit
            node = 2
        else:
            octave += bit
            node = node + 1 if bit else NODES
    magnitude = code_rest(model, scan, around[1], coder, data, decoding, magnitude, octave)
    return -magnitude if negative else magnitude


@inlined
def code_rest(model, scan, places, coder, data, decoding, magnitude, octave):  # type: ignore[no-untyped-def]
    """|n|, known to be 2^octave at least, and less than twice that unless octave is 2."""
    growing = octave == 2 and scan.depth > 3
    digit, known = octave - 1, 1
    tree = max(scan.depth - 3, 0)
    while growing or digit >= 0:
        if growing:
            node, bit = octave - 2, 1 if magnitude >> (octave + 1) else 0
        else:
            node, bit = tree + (LEADING + 1) * min(octave - 1, 6) + known, magnitude >> digit & 1
        if growing or known <= LEADING:
            bit = mixed_by_five(
                model.tail, places, node * TAIL, model.tail_weights, node * TAIL_INPUTS, coder, data, decoding, bit
            )  # fmt: skip
        else:
            bit = plain_bit(model.digits, digit, coder, data, decoding, bit)
        if growing:
            octave += bit
            growing = bit == 1 and octave + 1 < scan.depth
            digit = octave - 1
        else:
            known = 2 * known + bit
            digit -= 1
    return np.int64(known)


@inlined
def towards(mean, number, seen):  # type: ignore[no-untyped-def]
    return mean + (((number << 12) - mean) * RATE[seen] >> 16)


@compiled
def code_row(model, scan, cells, row, dead, coder, data, decoding):  # type: ignore[no-untyped-def]
    """One row that is not all zero. `recent`: 4096 · share of nonzero entries, with a memory of 64 entries."""
    model.row_mean[row] = model.mean[0]
    start = (row + MARGIN) * scan.stride + scan.left
    coded, recent = 0, 0
    for channel in range(scan.channels):
        if dead[channel]:
            continue
        found = 0
        for inner in range(scan.kernel):
            column = channel * scan.kernel + inner
            at = start + column
            if model.column_mean[column] == 0 and row == 0:
                model.column_mean[column] = model.mean[0]
            around = look_around(model, cells, at, scan, row, column, inner, found, recent)
            n = code_entry(model, scan, around, coder, data, decoding, np.int64(cells[at]))
            cells[at] = n
            size, nonzero = abs(n), 1 if n else 0
            model.row_mean[row] = towards(model.row_mean[row], size, min(coded + 3, 400))
            model.column_mean[column] = towards(model.column_mean[column], size, min(row + 3, 400))
            model.mean[0] = towards(model.mean[0], size, model.mean[1])
            model.mean[1] = min(model.mean[1] + 1, 1023)
            recent += (nonzero << 12) - recent >> 6
            found += nonzero
            coded += 1


@compiled
def code_dead(flags, lag, coder, data, decoding):  # type: ignore[no-untyped-def]
    """Which rows or channels are all zero: one bit if none is, else a bit each, in the context of those before."""
    some = 0
    for flag in flags:
        some |= flag
    if not narrow(coder, data, decoding, some, 32768):
        return
    slots = np.full(4, 1 << 29 | 1, dtype=np.uint32)
    for i in range(len(flags)):
        context = (flags[i - 1] if i else 0) + 2 * (flags[i - lag] if 0 < lag <= i else 0)
        flags[i] = plain_bit(slots, context, coder, data, decoding, flags[i])


@compiled
def find_dead(cells, scan):  # type: ignore[no-untyped-def]
    dead_rows, dead_channels = np.ones(scan.rows, dtype=np.uint8), np.ones(scan.channels, dtype=np.uint8)
    for row in range(scan.rows):
        at = (row + MARGIN) * scan.stride + scan.left
        for channel in range(scan.channels):
            for inner in range(scan.kernel):
                if cells[at + channel * scan.kernel + inner]:
                    dead_rows[row] = dead_channels[channel] = 0
    return dead_rows, dead_channels


@compiled
def code_cells(cells, scan, data, decoding):  # type: ignore[no-untyped-def]
    """Encodes `cells` into `data` (uint8), or decodes into `cells` (int32, zeros before). Returns as `mixing.end`."""
    coder = begin(data, decoding)
    dead_rows, dead_channels = find_dead(cells, scan)
    if decoding:
        dead_rows[:], dead_channels[:] = 0, 0
    code_dead(dead_rows, 0, coder, data, decoding)
    code_dead(dead_channels, scan.lag, coder, data, decoding)
    model = new_model(scan)
    for row in range(scan.rows):
        if not dead_rows[row]:
            code_row(model, scan, cells, row, dead_channels, coder, data, decoding)
    return end(coder, data, decoding)
