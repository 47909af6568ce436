"""What the model of a weight matrix knows: the contexts, what they say at first, and what has been seen so far.

The contexts are what the entries coded so far tell: how often this column was not zero, how large entries of this row
and this column were, what the neighbours are, and where in its block or convolution kernel the entry lies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from tersenet.coding.logistic import belief, inlined

compiled = njit(cache=True, nogil=True, error_model="numpy")
"""numba keeps what it compiled of a file until that changes, and does not look at what it imports: after a change here
or in `logistic`, touch `context_kernel` too."""

loop = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)  # type: ignore[call-overload]
"""For what allocates nothing: without numba's reference counts, which cost more than the arithmetic here."""

MARGIN = 2  # rows of zeros above, and columns on either side
NEAR, EXPECTED, NEAREST, OTHERS, AROUND = 216, 96, 27, 13, 32
LEAST_EXPECTED = 10
SIZE = 1 + EXPECTED + AROUND  # beliefs of one bit of |n|
LEADING = 8  # tree nodes of the first three digits of |n| after the first
FLAGS = 8
BLOCK = 8  # columns that are told together to be zero, unless there are kernels
BLOCKS_NEAR = 192
LARGEST = 8191  # |n| in sums
FIRST_MEAN = 512  # 4096 · |n|, before anything is known
PRIOR = 4  # so many entries are a mean's first guess worth

# What a context says at first (log-odds, and the variance of that), fitted to tensors of other seeds and to other nets
# than docs/CODER.md shows; `benchmarks/coder_priors.py` fits them anew. Part of the file format.
FLAG = belief(-0.6, 0.6)
COLUMN = belief(0, 0.1)
NEAR_BY = belief(0, 0.18)
IN_BLOCK = belief(0, 0.3)
COLUMN_BLOCK = belief(0, 0.17)
NEAR_BLOCKS = belief(0, 0.1)
NEAREST_SIGNS = belief(0, 0.5)
OTHER_SIGNS = belief(0, 0.1)
GROWING, DIGIT = belief(-0.1, 0.9), belief(0, 0.9)
UNKNOWN_DIGIT = belief(0, 0.22)
AROUND_SIZE = belief(0, 0.1)


class Scan(NamedTuple):
    """How the cells lie, and what they may hold.

    rows, channels, kernel: entry (r, c, k) stands in row r, column c · kernel + k.
    far, near, third: how many columns to the left the entries are that resemble this one most although they are no
    neighbours; 0 if there are none. lag: that distance where it is an image's row.
    block: columns that belong together, a kernel or BLOCK; blocks: how many such; grouped: where one is all zero, a bit
    says so. left: columns of zeros before each row; stride: cells from one row to the next.
    signed: there may be negative entries. depth: bits of the largest |n|.
    """

    rows: int
    channels: int
    kernel: int
    far: int
    near: int
    third: int
    lag: int
    block: int
    blocks: int
    grouped: int
    left: int
    stride: int
    signed: int
    depth: int


class Starts(NamedTuple):
    """Where in the array of beliefs those of each context begin. `each`: 1 if columns have their own, else 0."""

    column: int
    near: int
    expected: int
    inner: int
    column_block: int
    near_blocks: int
    expected_block: int
    nearest: int
    others: int
    flags: int
    growing: int
    digits: int
    last: int
    each: int


class Sums(NamedTuple):
    """What has been coded.

    column, column_mean, column_level, block_level: Σ |n|, 4096 · its mean, and the levels of that; see `level`.
    live: columns of each block that are not dead. found: of these, not 0 in this row. before: in the last row (3: or
    more), and 4 more if some were in the row before that.
    total: Σ |n| of all entries, how many they are, and in how many rows.
    """

    column: np.ndarray
    column_mean: np.ndarray
    column_level: np.ndarray
    block_level: np.ndarray
    live: np.ndarray
    found: np.ndarray
    before: np.ndarray
    total: np.ndarray


def _levels() -> np.ndarray:
    """Four steps an octave: 0 to 8 as they are, then 8 for 8 and 9, 9 for 10 and 11, … 12 for 16 to 19, …"""
    octaves = [max(number.bit_length() - 3, 0) for number in range(4096)]
    return np.array([4 * k + (number >> k) for number, k in enumerate(octaves)], dtype=np.uint8)


LEVELS = _levels()
BY_EXPECTED = np.array([belief(-0.9 + 0.04 * (i - 26), 0.26) for i in range(EXPECTED)])
BY_EXPECTED_BLOCK = np.array([belief(0.12 * (i - 26), 0.26) for i in range(EXPECTED)])
BY_EXPECTED_SIZE = np.array([[belief(0.04 * (i - 32 - 4 * k), 0.22) for i in range(EXPECTED)] for k in range(32)])
IF_NONE_YET = np.array([belief(2.5 / left, 0.3) for left in range(1, 65)])
"""Entry left − 1: there are so many entries left in a block, of which some are not 0."""


@inlined
def level(number):  # type: ignore[no-untyped-def]
    """`LEVELS` of any number; beyond 2²⁴, of that."""
    if number < 4096:
        return np.int64(LEVELS[np.uintp(number)])
    if number < 1 << 18:
        return 24 + np.int64(LEVELS[np.uintp(number >> 6)])
    return 48 + np.int64(LEVELS[np.uintp(min(number >> 12, 4095))])


@inlined
def trit(n):  # type: ignore[no-untyped-def]
    return (n > 0) + 2 * (n < 0)


@inlined
def sign(n):  # type: ignore[no-untyped-def]
    return np.int64(n > 0) - np.int64(n < 0)


@inlined
def pair(first, second):  # type: ignore[no-untyped-def]
    """0 to 5."""
    return 2 * min(abs(first), 2) + (second != 0)


@compiled
def new_beliefs(scan):  # type: ignore[no-untyped-def]
    each = 1 if scan.rows > 1 else 0
    columns, blocks = (scan.channels * scan.kernel, scan.blocks) if each else (1, 1)
    sizes = (
        columns, NEAR, EXPECTED, 8 * scan.kernel + 1, blocks, BLOCKS_NEAR, EXPECTED, NEAREST, OTHERS, FLAGS,
        SIZE * (scan.depth - 1), SIZE * LEADING * min(scan.depth - 1, 7), 32,
    )  # fmt: skip
    first = (
        COLUMN, NEAR_BY, 0, IN_BLOCK, COLUMN_BLOCK, NEAR_BLOCKS, 0, NEAREST_SIGNS, OTHER_SIGNS, FLAG, 0, 0, DIGIT,
    )  # fmt: skip
    at = np.zeros(len(sizes) + 1, dtype=np.int64)
    for i in range(len(sizes)):
        at[i + 1] = at[i] + sizes[i]
    beliefs = np.empty(at[-1], dtype=np.int64)
    for i in range(len(sizes)):
        beliefs[at[i] : at[i + 1]] = first[i]
    starts = Starts(
        at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8], at[9], at[10], at[11], at[12], each,
    )  # fmt: skip
    beliefs[starts.expected : starts.inner] = BY_EXPECTED
    beliefs[starts.expected_block : starts.nearest] = BY_EXPECTED_BLOCK
    if scan.grouped:
        for left in range(1, scan.block + 1):
            place = 8 * (scan.kernel - left) if scan.kernel > 1 else left - 1
            beliefs[starts.inner + place] = IF_NONE_YET[left - 1]
    for place in range(starts.growing, starts.last, SIZE):
        growing = place < starts.digits
        beliefs[place] = GROWING if growing else DIGIT
        beliefs[place + 1 : place + 1 + EXPECTED] = UNKNOWN_DIGIT
        if growing:
            beliefs[place + 1 : place + 1 + EXPECTED] = BY_EXPECTED_SIZE[(place - starts.growing) // SIZE]
        beliefs[place + 1 + EXPECTED : place + SIZE] = AROUND_SIZE
    return beliefs, starts


@compiled
def new_sums(scan, dead):  # type: ignore[no-untyped-def]
    columns = scan.channels * scan.kernel
    live = np.zeros(scan.blocks, dtype=np.uint8)
    for column in range(columns):
        live[column // scan.block] += 1 - dead[column // scan.kernel]
    return Sums(
        np.zeros(columns, dtype=np.int64), np.zeros(columns, dtype=np.int64), np.zeros(columns, dtype=np.uint8),
        np.zeros(scan.blocks, dtype=np.uint8), live, np.zeros(scan.blocks, dtype=np.uint8),
        np.zeros(scan.blocks + 1, dtype=np.uint8), np.zeros(3, dtype=np.int64),
    )  # fmt: skip


@inlined
def mean_of_all(sums):  # type: ignore[no-untyped-def]
    return (4096 * sums.total[0] + PRIOR * FIRST_MEAN) // (sums.total[1] + PRIOR)


@loop
def look_up(sums, scan):  # type: ignore[no-untyped-def]
    """What the rows above say of the columns; not for every row once there are many.

    Columns of an image's pixel are seen together with the four around it, those of a convolution kernel with the rest
    of the kernel.
    """
    rows, columns, means = sums.total[2], scan.channels * scan.kernel, sums.column_mean
    if rows >= 16 and rows & 7:
        return
    guess, inverse = PRIOR * mean_of_all(sums), (1 << 24) // (rows + PRIOR)
    for column in range(columns):
        means[column] = (4096 * sums.column[column] + guess) * inverse >> 24
    for block in range(scan.blocks):
        first, last = block * scan.block, min((block + 1) * scan.block, columns)
        together = np.int64(0)
        for column in range(first, last):
            together += means[column]
        together //= last - first
        sums.block_level[block] = level(together)
        for column in range(first, last):
            own = means[column]
            if scan.kernel > 1:
                own = own + 3 * together >> 2
            elif scan.lag:
                own += means[column - 1 if column else column] + means[min(column + 1, columns - 1)]
                own += means[column - scan.lag if column >= scan.lag else column]
                own += means[column + scan.lag if column + scan.lag < columns else column]
                own //= 5
            sums.column_level[column] = level(own)


@inlined
def held(expected):  # type: ignore[no-untyped-def]
    return min(max(expected - LEAST_EXPECTED, 0), EXPECTED - 1)
