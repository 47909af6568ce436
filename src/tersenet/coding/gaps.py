"""Relative indices, as in Deep Compression (arXiv:1510.00149, section 2, figure 2).

Only nonzero symbols are written, each with its distance to the one before, in a fixed number of bits. Where a distance
exceeds the largest that fits, a zero symbol is put in as padding. Distances and symbols are two rows, each with its own
entropy code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tersenet.coding.base import CodingError
from tersenet.coding.bits import BitReader, BitWriter
from tersenet.coding.histogram import Histogram, from_counts, histogram
from tersenet.coding.static import Arrangement
from tersenet.core.code import Symbols

_WIDTH_BITS = 4
_MAX_WIDTH = 1 << _WIDTH_BITS
_MIN_SPARSITY = 0.5  # with fewer zeros than that, distances only cost


@dataclass(frozen=True)
class Gaps:
    name: str = "gaps"

    def arrangements(self, symbols: Symbols) -> Iterator[Arrangement]:
        """One for each number of bits that a distance may have."""
        if not symbols.zero:
            return
        used, counts = symbols.counted
        if not 0 < int(counts[used != 0].sum()) <= _MIN_SPARSITY * len(symbols.values):
            return
        positions = np.flatnonzero(symbols.values)
        skipped = np.diff(positions, prepend=-1) - 1  # zeros before each nonzero symbol
        skips = histogram(skipped.astype(np.int32), int(skipped.max()) + 1)
        kept = histogram(symbols.values[positions], symbols.alphabet)
        widest = max(int(skipped.max()).bit_length(), 1)
        for width in range(1, min(widest, _MAX_WIDTH) + 1):
            yield _arrange(symbols, skips, kept, width)

    def shapes(self, reader: BitReader, length: int, alphabet: int) -> list[tuple[int, int]]:
        width = reader.number(_WIDTH_BITS) + 1
        entries = int(reader.numbers(1)[0])
        if entries > length:
            raise CodingError(f"{entries} distances for a row of {length}")
        return [(entries, 1 << width), (entries, alphabet)]

    def join(self, rows: list[np.ndarray], length: int, alphabet: int) -> np.ndarray:
        values = np.zeros(length, dtype=np.int32)
        if rows:
            positions = np.cumsum(rows[0].astype(np.int64) + 1) - 1
            if positions[-1] >= length:
                raise CodingError(f"distances lead beyond the {length} symbols of the row")
            values[positions] = rows[1]
        return values


def relative_index(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """`values` [n] → (distances − 1 in [0, 2^width), symbols), one entry per nonzero symbol or padding zero.

    The first distance is counted from just before the array, as in the paper's figure, whose indices start at 1.
    """
    positions = np.flatnonzero(values)
    skipped = np.diff(positions, prepend=-1) - 1
    padding = skipped >> width
    ends = np.cumsum(padding + 1)
    distances = np.full(int(ends[-1]) if len(ends) else 0, (1 << width) - 1, dtype=np.int32)
    symbols = np.zeros_like(distances)
    distances[ends - 1] = skipped & ((1 << width) - 1)
    symbols[ends - 1] = values[positions]
    return distances, symbols


def _arrange(symbols: Symbols, skips: Histogram, kept: Histogram, width: int) -> Arrangement:
    padding = int(skips.counts @ (skips.used.astype(np.int64) >> width))
    distances, found = _distances(skips, width, padding), _with_padding(kept, padding)

    def header(writer: BitWriter) -> None:
        writer.number(width - 1, _WIDTH_BITS)
        writer.numbers(np.array([found.total]))

    def split(bits: Sequence[float]) -> tuple[float, float]:
        return bits[0], bits[1]

    return Arrangement((distances, found), lambda: relative_index(symbols.values, width), header, split)


def _distances(skips: Histogram, width: int, padding: int) -> Histogram:
    """What the row of distances will contain, from the histogram of skipped zeros alone."""
    folded = np.bincount(skips.used & ((1 << width) - 1), weights=skips.counts, minlength=1 << width)
    folded[-1] += padding
    return from_counts(folded.astype(np.int64), 1 << width)


def _with_padding(kept: Histogram, padding: int) -> Histogram:
    if padding == 0:
        return kept
    return Histogram(np.insert(kept.used, 0, 0), np.insert(kept.counts, 0, padding), kept.alphabet)


GAPS = Gaps()
