"""The loops of the context coder: which bits say an entry, and in which contexts each of them is predicted.

An entry is a whole number n. Its bits: is n ≠ 0; the sign; whether |n| ≥ 2, 4, 8, … one after the other until one says
no; then the binary digits of |n| after the first. Rows and channels of nothing but zeros are told first, and skipped;
where there are many zeros, so are blocks of a row.
"""

# mypy: disable-error-code="arg-type, operator"
# (numba knows the types; mypy guesses)

from __future__ import annotations

import numpy as np

from tersenet.coding.context_model import (
    AROUND,
    BLOCK,
    EXPECTED,
    LARGEST,
    LEADING,
    MARGIN,
    PRIOR,
    SIZE,
    compiled,
    held,
    level,
    look_up,
    loop,
    mean_of_all,
    new_beliefs,
    new_sums,
    pair,
    sign,
    trit,
)  # fmt: skip
from tersenet.coding.logistic import NONE, begin, code_bit, end, inlined, narrow


@inlined
def code_block(beliefs, starts, sums, scan, block, row_level, coder, data, decoding, some):  # type: ignore[no-untyped-def]
    """Whether some entry of a block is not 0."""
    far = np.int64(0)
    if scan.lag and BLOCK * block >= scan.lag:
        far = min(np.int64(sums.found[BLOCK * block - scan.lag + BLOCK // 2 >> 3]), 2)
    left = min(np.int64(sums.found[block - 1]), 3) if block else np.int64(0)
    above = 2 * np.int64(sums.before[block]) + np.int64(sums.before[block + 1] & 3 != 0)
    places = (
        starts.near_blocks + (above * 4 + left) * 3 + far,
        starts.column_block + block * starts.each,
        starts.expected_block + held(np.int64(sums.block_level[block]) + row_level),
        NONE,
    )
    return code_bit(beliefs, places, coder, data, decoding, some)


@loop
def code_row(beliefs, starts, sums, scan, cells, row, dead, coder, data, decoding):  # type: ignore[no-untyped-def]
    """One row that is not all zero."""
    start = (row + MARGIN) * scan.stride + scan.left
    guess = PRIOR * mean_of_all(sums)
    level_of_all = level(guess // PRIOR)
    total, coded, refresh, row_level = np.int64(0), np.int64(0), np.int64(2), np.int64(0)
    for block in range(scan.blocks):
        left = np.int64(sums.live[block])
        found = np.int64(0)
        sums.found[block] = 0
        if left == 0:
            continue
        if coded >= refresh:
            row_level = level((4096 * total + guess) // (coded + PRIOR)) - level_of_all
            refresh = coded + min(max(coded >> 1, 2), 16)
        coded += left
        first = block * scan.block
        last = min(first + scan.block, scan.channels * scan.kernel)
        if scan.grouped:
            some = np.int64(0)
            if not decoding:
                for at in range(start + first, start + last):
                    some |= np.int64(cells[at])
                some = np.int64(some != 0)
            some, coder = code_block(beliefs, starts, sums, scan, block, row_level, coder, data, decoding, some)
            if not some:
                continue
        beside = pair(cells[start + first - 1], cells[start + first - 2])
        for column in range(first, last):
            if scan.kernel == 1 and dead[column]:
                beside = np.int64(beside > 1)
                continue
            at = start + column
            if scan.kernel > 1:
                inner = starts.inner + 8 * (column - first) + min(found, 7)
            elif scan.grouped:
                inner = starts.inner + (BLOCK if found else left - 1)
            else:
                inner = NONE
            n, coder = code_entry(
                beliefs, starts, sums, scan, cells, (at, column, row_level), (beside, inner),
                scan.grouped != 0 and left == 1 and found == 0, coder, data, decoding,
            )  # fmt: skip
            left -= 1
            if n:
                found += 1
                size = min(abs(n), LARGEST)
                total += size
                sums.column[column] += size
                cells[at] = n
            beside = 2 * min(abs(n), 2) + np.int64(beside > 1)
        sums.found[block] = found
    for block in range(scan.blocks):
        sums.before[block] = min(sums.found[block], 3) + (4 if sums.before[block] & 3 else 0)
    sums.total[0] += total
    sums.total[1] += coded
    sums.total[2] += 1
    return coder


@inlined
def code_entry(beliefs, starts, sums, scan, cells, where, within, certain, coder, data, decoding):  # type: ignore[no-untyped-def]
    """within: `pair` of the two entries to the left, and the context by place in the block. certain: it is not 0,
    since the rest of its block is."""
    (at, column, row_level), (beside, inner) = where, within
    above, above2 = np.int64(cells[np.uintp(at - scan.stride)]), np.int64(cells[np.uintp(at - 2 * scan.stride)])
    far, near = np.int64(0), np.int64(0)
    if scan.far:
        far, near = np.int64(cells[np.uintp(at - scan.far)]), np.int64(cells[np.uintp(at - scan.near)])
    expected = held(np.int64(sums.column_level[np.uintp(column)]) + row_level)
    n = np.int64(cells[np.uintp(at)])
    bit = np.int64(1)
    if not certain:
        places = (
            starts.column + column * starts.each,
            starts.near + 36 * beside + 6 * pair(above, above2) + pair(far, near),
            starts.expected + expected,
            inner,
        )
        bit, coder = code_bit(beliefs, places, coder, data, decoding, np.int64(n != 0))
    if bit:
        n, coder = code_value(
            beliefs, starts, scan, cells, (at, expected), (above, above2, far, near), coder, data,
            decoding, n,
        )  # fmt: skip
    else:
        n = np.int64(0)
    return n, coder


@inlined
def code_value(beliefs, starts, scan, cells, where, around, coder, data, decoding, n):  # type: ignore[no-untyped-def]
    """An entry that is not 0. around: two above, and those at the distances `scan.far` and `scan.near`."""
    (at, expected), (above, above2, far, near) = where, around
    left, left2 = np.int64(cells[at - 1]), np.int64(cells[at - 2])
    beside, beside2 = np.int64(cells[at - scan.stride - 1]), np.int64(cells[at - scan.stride + 1])
    third = np.int64(cells[at - scan.third]) if scan.far else np.int64(0)
    negative = np.int64(0)
    if scan.signed:
        others = sign(left2) + sign(above2) + sign(beside) + sign(beside2) + sign(near) + sign(third)
        nearest = (trit(left) * 3 + trit(above)) * 3 + trit(far)
        places = (starts.nearest + nearest, starts.others + 6 + others, NONE, NONE)
        negative, coder = code_bit(beliefs, places, coder, data, decoding, np.int64(n < 0))
    size = 2 * abs(left) + abs(left2) + 2 * abs(above) + abs(above2) + abs(beside) + abs(beside2)
    size = min(level(size + 2 * abs(far) + abs(near) + abs(third)), AROUND - 1)
    magnitude, coder = code_size(beliefs, starts, scan, expected, size, coder, data, decoding, abs(n))
    return -magnitude if negative else magnitude, coder


@inlined
def code_size(beliefs, starts, scan, expected, size, coder, data, decoding, magnitude):  # type: ignore[no-untyped-def]
    """|n|, which is not 0: whether it is 2, 4, 8, … at least, then its digits after the first."""
    octave, known, growing = np.int64(0), np.int64(1), scan.depth > 1
    digit = np.int64(-1)
    while growing or digit >= 0:
        if growing:
            first, bit = starts.growing + SIZE * octave, np.int64(magnitude >> octave + 1 != 0)
        else:
            first = starts.digits + SIZE * (LEADING * (min(octave, 7) - 1) + known)
            bit = magnitude >> digit & 1
        if growing or known < LEADING:
            places = (first, first + 1 + expected, first + 1 + EXPECTED + size, NONE)
        else:
            places = (starts.last + digit, NONE, NONE, NONE)
        bit, coder = code_bit(beliefs, places, coder, data, decoding, bit)
        if growing:
            octave += bit
            growing = bit == 1 and octave + 1 < scan.depth
            digit = octave - 1
        else:
            known = 2 * known + bit
            digit -= 1
    return known, coder


@loop
def code_dead(beliefs, first, flags, lag, coder, data, decoding):  # type: ignore[no-untyped-def]
    """Which rows or channels are all zero: one bit if none is, else a bit each, in the context of those before."""
    some = np.int64(0)
    for flag in flags:
        some |= flag
    some, coder = narrow(coder, data, decoding, some, np.int64(32768))
    if some:
        for i in range(len(flags)):
            before = np.int64(flags[i - 1]) if i else np.int64(0)
            far = np.int64(flags[i - lag]) if 0 < lag <= i else np.int64(0)
            places = (first + before + 2 * far, NONE, NONE, NONE)
            flag, coder = code_bit(beliefs, places, coder, data, decoding, np.int64(flags[i]))
            flags[i] = flag
    return coder


@loop
def find_dead(cells, scan, dead_rows, dead_channels):  # type: ignore[no-untyped-def]
    dead_rows[:], dead_channels[:] = 1, 1
    for row in range(scan.rows):
        at = (row + MARGIN) * scan.stride + scan.left
        for channel in range(scan.channels):
            some = np.int32(0)
            for inner in range(scan.kernel):
                some |= cells[at + channel * scan.kernel + inner]
            if some:
                dead_rows[row] = dead_channels[channel] = 0


@compiled
def code_cells(cells, scan, data, decoding):  # type: ignore[no-untyped-def]
    """Encodes `cells` into `data` (uint8), or decodes into `cells` (int32, zeros before). Returns as `logistic.end`."""
    coder = begin(data, decoding)
    beliefs, starts = new_beliefs(scan)
    dead_rows, dead_channels = np.zeros(scan.rows, dtype=np.uint8), np.zeros(scan.channels, dtype=np.uint8)
    if not decoding:
        find_dead(cells, scan, dead_rows, dead_channels)
    coder = code_dead(beliefs, starts.flags, dead_rows, 0, coder, data, decoding)
    coder = code_dead(beliefs, starts.flags + 4, dead_channels, scan.lag, coder, data, decoding)
    sums = new_sums(scan, dead_channels)
    for row in range(scan.rows):
        if not dead_rows[row]:
            look_up(sums, scan)
            coder = code_row(beliefs, starts, sums, scan, cells, row, dead_channels, coder, data, decoding)
    return end(coder, data, decoding)


@loop
def lay_out(symbols, zero, negative, scan, cells):  # type: ignore[no-untyped-def]
    """Writes the numbers that `symbols` (int32) mean to where `scan` finds them; see `context_way.Way`."""
    columns = scan.channels * scan.kernel
    for row in range(scan.rows):
        at = (row + MARGIN) * scan.stride + scan.left
        for column in range(columns):
            symbol = np.int64(symbols[row * columns + column])
            n = symbol - negative
            if zero:
                n = np.int64(0) if symbol == 0 else n - np.int64(n <= 0)
            cells[at + column] = n


@loop
def take_up(cells, scan, zero, negative, alphabet, symbols):  # type: ignore[no-untyped-def]
    """Fills `symbols` with what the numbers mean. False if one lies outside [0, alphabet)."""
    columns = scan.channels * scan.kernel
    inside = True
    for row in range(scan.rows):
        at = (row + MARGIN) * scan.stride + scan.left
        for column in range(columns):
            n = np.int64(cells[at + column])
            symbol = n + negative
            inside &= 0 <= symbol < alphabet
            if zero:
                symbol = np.int64(0) if n == 0 else symbol + np.int64(n < 0)
            symbols[row * columns + column] = symbol
    return inside
