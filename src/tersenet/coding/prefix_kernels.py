"""The two loops over bits that numpy cannot do. Imported only when Huffman codes are written or read."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def write_words(indices, codes, lengths, out, position):  # type: ignore[no-untyped-def]
    """ORs the words into `out` (uint8, zero from `position` on, in bits) and returns the position after the last."""
    byte = position >> 3
    held = np.uint64(out[byte] >> (8 - (position & 7))) if position & 7 else np.uint64(0)
    count = position & 7
    for index in indices:
        held = (held << np.uint64(lengths[index])) | np.uint64(codes[index])
        count += lengths[index]
        position += lengths[index]
        while count >= 8:
            count -= 8
            out[byte] = (held >> np.uint64(count)) & np.uint64(0xFF)
            byte += 1
    if count:
        out[byte] = (held << np.uint64(8 - count)) & np.uint64(0xFF)
    return position


@njit(cache=True, nogil=True)
def read_words(data, end, position, quick, quick_bits, limits, firsts, ranks, ranked, longest, out):  # type: ignore[no-untyped-def]
    """Fills `out` with symbol indices; returns the position after the last word, or −1 if it lies beyond `end`.

    data: uint8 with four zero bytes after the last; positions in bits.
    quick: for the next `quick_bits` bits, index · 32 + length, or 0 where the word is longer.
    limits, firsts, ranks: per length, the end and start of its words as `longest`-bit integers, and the first rank.
    """
    for i in range(len(out)):
        byte = position >> 3
        window = np.uint32(data[byte]) << np.uint32(24) | np.uint32(data[byte + 1]) << np.uint32(16)
        window |= np.uint32(data[byte + 2]) << np.uint32(8) | np.uint32(data[byte + 3])
        window = np.uint32(window << np.uint32(position & 7))
        entry = quick[window >> np.uint32(32 - quick_bits)]
        if entry:
            out[i] = entry >> 5
            position += entry & 31
        else:
            word = np.int64(window >> np.uint32(32 - longest))
            length = quick_bits + 1
            while word >= limits[length]:
                length += 1
            out[i] = ranked[ranks[length] + ((word - firsts[length]) >> (longest - length))]
            position += length
        if position > end:
            return -1
    return position
