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
def fill(used, found, slots):  # type: ignore[no-untyped-def]
    """slots, uint32 [2^12], per q: (f − 1) · 2^20 + (q − c) · 2^8 + symbol, of the symbols `used` with frequencies
    `found`. False unless symbols ascend and frequencies sum to 2^12."""
    begin = 0
    for i in range(len(used)):
        f = int(found[i])
        if begin + f > len(slots) or (i and used[i] <= used[i - 1]):
            return False
        for within in range(f):
            slots[begin + within] = (f - 1) << 20 | within << 8 | used[i]
        begin += f
    return begin == len(slots)


@njit(cache=True, nogil=True)
def read(states, words, slots, out):  # type: ignore[no-untyped-def]
    """Fills `out` (uint8). False unless the words end with it, all states where they began.

    states: uint32 [LANES]. slots: as `fill` writes them. words: uint16, with LANES more after the last.
    """
    a, b, c, d, e, f, g, h = states[0], states[1], states[2], states[3], states[4], states[5], states[6], states[7]
    place, end, i = np.uintp(0), np.uintp(len(words) - LANES), np.uintp(0)
    for _ in range(len(out) // LANES):
        if place > end:
            return False
        out[i], a, place = _step(a, slots, words, place)
        out[i + np.uintp(1)], b, place = _step(b, slots, words, place)
        out[i + np.uintp(2)], c, place = _step(c, slots, words, place)
        out[i + np.uintp(3)], d, place = _step(d, slots, words, place)
        out[i + np.uintp(4)], e, place = _step(e, slots, words, place)
        out[i + np.uintp(5)], f, place = _step(f, slots, words, place)
        out[i + np.uintp(6)], g, place = _step(g, slots, words, place)
        out[i + np.uintp(7)], h, place = _step(h, slots, words, place)
        i += np.uintp(LANES)
    if place > end:
        return False
    states[:] = (a, b, c, d, e, f, g, h)
    for lane in range(len(out) % LANES):
        out[i + np.uintp(lane)], states[lane], place = _step(states[lane], slots, words, place)
    return place == end and np.all(states == _LOW)


@njit(cache=True, nogil=True)
def _step(x, slots, words, place):  # type: ignore[no-untyped-def]
    """Symbol, state and place after it. Unsigned numbers throughout, since an index that may be negative costs a
    comparison, and states that have names of their own, since an array of them would live in memory."""
    slot = slots[np.uintp(x & np.uint32(0xFFF))]
    below = ((slot >> np.uint32(20)) + np.uint32(1)) * (x >> np.uint32(BITS)) + (
        (slot >> np.uint32(8)) & np.uint32(0xFFF)
    )
    low = below < np.uint32(_LOW)
    more = (below << np.uint32(16)) | np.uint32(words[place])
    return np.uint8(slot & np.uint32(0xFF)), more if low else below, place + np.uintp(low)
