"""Huffman codes of limited length: optimal lengths, their table, and the canonical code words that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tersenet.coding.base import CodingError
from tersenet.coding.bits import BitReader, BitWriter, unzigzag, zigzag
from tersenet.coding.histogram import Histogram
from tersenet.coding.static import read_used, write_used

MAX_LENGTH = 20  # bits; enough for `static.MAX_USED` symbols, and 1 in a million otherwise


@dataclass(frozen=True)
class CodeLengths:
    """Length of each symbol's code word in bits, int64 [m]; a lone symbol has length 0."""

    used: np.ndarray
    lengths: np.ndarray
    alphabet: int

    def bits(self, counts: np.ndarray) -> float:
        return float(counts @ self.lengths)

    def write(self, writer: BitWriter) -> None:
        write_used(writer, self.used, self.alphabet)
        if len(self.used) > 1:
            writer.numbers(zigzag(np.diff(self.lengths, prepend=_first_guess(len(self.used)))))


@dataclass(frozen=True)
class CanonicalCode:
    """Code words in the order (length, symbol), each the next free one: the lengths alone determine them.

    ranked: symbol indices in that order.
    codes: code word per symbol index, uint32 [m].
    starts: first word of each rank, as an integer of `longest` bits.
    """

    ranked: np.ndarray
    codes: np.ndarray
    starts: np.ndarray
    longest: int


def fit(found: Histogram) -> CodeLengths:
    return CodeLengths(found.used, package_merge(found.counts, MAX_LENGTH), found.alphabet)


def package_merge(counts: np.ndarray, limit: int) -> np.ndarray:
    """Code lengths ≤ `limit` with the fewest bits in total (Larmore and Hirschberg, JACM 37(3), 1990).

    Level by level, the cheapest items are paired into packages and merged with the single symbols again. Among the
    2m − 2 cheapest items of the last level, a symbol's code length is the number of levels in which it was taken; as
    both symbols and packages are sorted, those taken are always the first ones.
    """
    order = np.argsort(counts, kind="stable")
    singles = counts[order]
    m = len(singles)
    if m > 1 << limit:
        raise CodingError(f"{m} symbols do not fit into code words of {limit} bits")
    merged, single_flags = singles, [np.ones(m, dtype=bool)]
    for _ in range(limit - 1):
        packages = merged[: len(merged) // 2 * 2].reshape(-1, 2).sum(axis=1)
        merged = np.concatenate([singles, packages])
        ranks = np.argsort(merged, kind="stable")
        merged = merged[ranks]
        single_flags.append(ranks < m)
    lengths = np.zeros(m, dtype=np.int64)
    taken = 2 * m - 2
    for flags in reversed(single_flags):
        singles_taken = int(np.count_nonzero(flags[:taken]))
        lengths[order[:singles_taken]] += 1
        taken = 2 * (taken - singles_taken)
    return lengths


def read(reader: BitReader, length: int, alphabet: int) -> CodeLengths:
    used = read_used(reader, length, alphabet)
    m = len(used)
    if m == 1:
        return CodeLengths(used, np.zeros(1, dtype=np.int64), alphabet)
    lengths = np.cumsum(unzigzag(reader.numbers(m))) + _first_guess(m)
    if int(lengths.min()) < 1 or int(lengths.max()) > MAX_LENGTH:
        raise CodingError(f"a code word is not between 1 and {MAX_LENGTH} bits long")
    if int((1 << (MAX_LENGTH - lengths)).sum()) != 1 << MAX_LENGTH:
        raise CodingError("the code lengths do not add up to a complete prefix code")
    return CodeLengths(used, lengths, alphabet)


def canonical(lengths: np.ndarray) -> CanonicalCode:
    """`lengths` int64 [m], m ≥ 2, complete (Kraft's sum is 1)."""
    longest = int(lengths.max())
    ranked = np.argsort(lengths, kind="stable")
    spans = np.int64(1) << (longest - lengths[ranked])
    starts = np.cumsum(spans) - spans
    codes = np.zeros(len(lengths), dtype=np.uint32)
    codes[ranked] = starts >> (longest - lengths[ranked])
    return CanonicalCode(ranked, codes, starts, longest)


def _first_guess(m: int) -> int:
    return m.bit_length()
