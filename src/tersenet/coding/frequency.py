"""Frequencies for arithmetic coding as integers that sum to 2²⁴, and a table of a few bits per symbol for them.

What is written for each symbol is its ideal code length, rounded to a multiple of δ = 1/8, 1/4, 1/2, 1, … bits and told
as the difference to its neighbour: neighbouring codebook entries are used about equally often. Rounding code lengths by
at most δ/2 costs about (ln 2 / 2)·δ²/12 bits per symbol (the second-order term of the Kullback-Leibler divergence), so
few data deserve a coarse δ and many a fine one; the δ with the fewest bytes in total is taken.

Decoding uses integers alone, hence the same file gives the same frequencies on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tersenet.coding.base import CodingError
from tersenet.coding.bits import BitReader, BitWriter, golomb_bits, unzigzag, zigzag
from tersenet.coding.histogram import Histogram
from tersenet.coding.static import read_used, write_used

PRECISION = 24  # bits; the resolution of constriction's models
_STEP_BITS = 3  # a level is worth 2^step eighths of a bit
_MAX_EIGHTHS = 8 * 31
# round(2^(30 − j/8)) for j = 0 … 7, spelled out so that no machine's exp2 has a say
_EIGHTHS = np.array(
    [1073741824, 984625594, 902905651, 827968132, 759250125, 696235434, 638450708, 585461881], dtype=np.int64
)


@dataclass(frozen=True)
class Frequencies:
    """Prices of the symbols of one row: `levels[i]·2^step / 8` bits more than the cheapest symbol."""

    used: np.ndarray
    levels: np.ndarray
    step: int
    alphabet: int

    def integers(self) -> np.ndarray:
        """int64 [m], each ≥ 1, sum 2²⁴; in proportion to 2^(−level·2^step / 8)."""
        eighths = self.levels << self.step
        weights = _EIGHTHS[eighths % 8] >> (eighths // 8)
        free = (1 << PRECISION) - len(weights)
        frequencies = 1 + weights * free // int(weights.sum())
        frequencies[np.argmin(eighths)] += (1 << PRECISION) - int(frequencies.sum())
        return np.asarray(frequencies)

    def bits(self, counts: np.ndarray) -> float:
        return float(counts @ (PRECISION - np.log2(self.integers())))

    def write(self, writer: BitWriter) -> None:
        write_used(writer, self.used, self.alphabet)
        if len(self.used) > 1:
            writer.number(self.step, _STEP_BITS)
            writer.numbers(self.differences())

    def differences(self) -> np.ndarray:
        return zigzag(np.diff(self.levels, prepend=0))


def fit(found: Histogram) -> Frequencies:
    """The table whose own bits and whose stream's bits together are fewest."""
    if len(found.used) == 1:
        return Frequencies(found.used, np.zeros(1, dtype=np.int64), 0, found.alphabet)
    best, fewest = _at_step(found, 0), float("inf")
    for step in range(1 << _STEP_BITS):
        table = _at_step(found, step)
        bits = golomb_bits(table.differences()) + table.bits(found.counts)
        if bits >= fewest:
            break
        best, fewest = table, bits
    return best


def _at_step(found: Histogram, step: int) -> Frequencies:
    eighths = 8 * np.log2(found.counts.max() / found.counts)
    levels = np.minimum(np.rint(eighths / (1 << step)).astype(np.int64), _MAX_EIGHTHS >> step)
    return Frequencies(found.used, levels, step, found.alphabet)


def read(reader: BitReader, length: int, alphabet: int) -> Frequencies:
    used = read_used(reader, length, alphabet)
    if len(used) == 1:
        return Frequencies(used, np.zeros(1, dtype=np.int64), 0, alphabet)
    step = reader.number(_STEP_BITS)
    levels = np.cumsum(unzigzag(reader.numbers(len(used))))
    if int(levels.min()) != 0 or int(levels.max()) << step > _MAX_EIGHTHS:
        raise CodingError("a frequency lies outside what a table can say")
    return Frequencies(used, levels, step, alphabet)
