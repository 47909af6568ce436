"""The loops of `coding/lanes.py`, which run without the interpreter's lock. Imported only when such bytes are coded."""

from __future__ import annotations

import numpy as np
from numba import njit

LANES = 8
BITS = 12
"""Frequencies sum to 2^12: a table for decoding, four bytes a slot, then stays in the first-level cache."""

_LOW = 1 << 16  # states lie in [2^16, 2^32)


@njit(cache=True, nogil=True)
def count(values, counts):  # type: ignore[no-untyped-def]
    """Adds to `counts` (int64 [alphabet]) how often each of `values`, which lie in [0, alphabet), occurs."""
    parts = np.zeros((4, len(counts)), np.int64)  # four, so that a run of one value need not wait for itself
    whole = len(values) // 4 * 4
    for i in range(0, whole, 4):
        for part in range(4):
            parts[part, np.uintp(values[i + part])] += 1
    for i in range(whole, len(values)):
        parts[0, values[i]] += 1
    for part in range(4):
        counts += parts[part]


@njit(cache=True, nogil=True)
def frequencies(counts):  # type: ignore[no-untyped-def]
    """int64 [256], sum 2^12: about in proportion to `counts`, and at least 1 wherever these are not 0.

    What rounding leaves over goes one by one to whom it saves most, c · log((f + 1) / f) ≈ c / (f + ½), or is taken
    where it costs least.
    """
    found = np.zeros(256, np.int64)
    total = counts.sum()
    for symbol in range(256):
        if counts[symbol]:
            found[symbol] = max(1, (counts[symbol] << BITS) // total)
    left = (1 << BITS) - found.sum()
    while left:
        sign = 1 if left > 0 else -1
        best, chosen = -1.0, -1
        for symbol in range(256):
            if found[symbol] > (sign < 0):
                price = counts[symbol] / (found[symbol] + 0.5 * sign)
                gain = price if sign > 0 else 1.0 / price
                if gain > best:
                    best, chosen = gain, symbol
        found[chosen] += sign
        left -= sign
    return found


@njit(cache=True, nogil=True)
def write(values, found, states, words):  # type: ignore[no-untyped-def]
    """Codes bytes by the frequencies `found`; fills `states` (uint32 [LANES]) and the end of `words` (uint16, longer
    than `values`), and returns where in `words` it begins.

    A state x becomes ⌊x / f⌋ · 2^12 + c + x mod f = x + c + ⌊x / f⌋ · (2^12 − f). The quotient is exact as a product
    with r = ⌈2^44 / f⌉, since x < 2^20 · f: then x · (r · f − 2^44) < 2^44, and x · r < 2^64.
    """
    most, inverse = np.zeros(256, np.uint64), np.zeros(256, np.uint64)
    below, rest = np.zeros(256, np.uint64), np.zeros(256, np.uint64)
    c = 0
    for symbol in range(256):
        f = found[symbol]
        if f:
            most[symbol] = f << 20
            inverse[symbol] = ((1 << 44) + f - 1) // f
            below[symbol] = c
            rest[symbol] = (1 << BITS) - f
            c += f
    x = np.full(LANES, _LOW, np.uint64)
    place = len(words)
    tail = len(values) % LANES
    for lane in range(tail - 1, -1, -1):
        symbol = values[len(values) - tail + lane]
        s = x[lane]
        if s >= most[symbol]:
            place -= 1
            words[place] = s & np.uint64(0xFFFF)
            s >>= np.uint64(16)
        x[lane] = s + below[symbol] + ((s * inverse[symbol]) >> np.uint64(44)) * rest[symbol]
    for begin in range(len(values) - tail - LANES, -1, -LANES):
        for lane in range(LANES - 1, -1, -1):
            symbol = values[begin + lane]
            s = x[lane]
            full = s >= most[symbol]
            words[place - 1] = s & np.uint64(0xFFFF)  # taken back by not counting it: a branch would be guessed wrong
            place -= full
            s >>= np.uint64(16) * np.uint64(full)
            x[lane] = s + below[symbol] + ((s * inverse[symbol]) >> np.uint64(44)) * rest[symbol]
    for lane in range(LANES):
        states[lane] = x[lane]
    return place


@njit(cache=True, nogil=True)
def read(states, words, slots, out):  # type: ignore[no-untyped-def]
    """Fills `out` (uint8). False unless the words end with it, all states where they began.

    slots: per q in [0, 2^12), (f − 1) · 2^20 + (q − c) · 2^8 + symbol. words: uint16, with LANES more after the last.
    """
    x = np.empty(LANES, np.uint64)
    for lane in range(LANES):
        x[lane] = states[lane]
    place, end = 0, len(words) - LANES
    whole = len(out) // LANES * LANES
    for begin in range(0, whole, LANES):
        if place > end:
            return False
        for lane in range(LANES):
            s = x[lane]
            slot = np.uint64(slots[s & np.uint64(0xFFF)])
            out[begin + lane] = slot & np.uint64(0xFF)
            s = ((slot >> np.uint64(20)) + np.uint64(1)) * (s >> np.uint64(BITS)) + (
                (slot >> np.uint64(8)) & np.uint64(0xFFF)
            )
            low = s < np.uint64(_LOW)
            more = (s << np.uint64(16)) | np.uint64(words[place])
            x[lane] = more if low else s
            place += low
    if place > end:
        return False
    for lane in range(len(out) - whole):
        s = x[lane]
        slot = np.uint64(slots[s & np.uint64(0xFFF)])
        out[whole + lane] = slot & np.uint64(0xFF)
        s = ((slot >> np.uint64(20)) + np.uint64(1)) * (s >> np.uint64(BITS)) + (
            (slot >> np.uint64(8)) & np.uint64(0xFFF)
        )
        if s < np.uint64(_LOW):
            s = (s << np.uint64(16)) | np.uint64(words[place])
            place += 1
        x[lane] = s
    for lane in range(LANES):
        if x[lane] != np.uint64(_LOW):
            return False
    return place == end
