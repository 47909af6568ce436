"""How often each symbol occurs, and the zeroth-order entropy that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tersenet.core.code import Symbols, counted


@dataclass(frozen=True)
class Histogram:
    """The symbols that occur, ascending (int32 [m]), and how often (int64 [m], each ≥ 1)."""

    used: np.ndarray
    counts: np.ndarray
    alphabet: int

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def histogram(values: np.ndarray, alphabet: int) -> Histogram:
    """Counts in time O(len(values)), also where the alphabet is far larger than the array."""
    return Histogram(*counted(values, alphabet), alphabet)


def histogram_of(symbols: Symbols) -> Histogram:
    """The same of symbols, which are counted once however often this is asked."""
    return Histogram(*symbols.counted, symbols.alphabet)


def from_counts(counts: np.ndarray, alphabet: int) -> Histogram:
    """`counts[s]`: how often symbol s occurs."""
    used = np.flatnonzero(counts)
    return Histogram(used.astype(np.int32), counts[used].astype(np.int64), alphabet)


def entropy_bits(counts: np.ndarray) -> float:
    """n·H(counts / n) in bits: Shannon's bound for n symbols drawn independently from their own distribution."""
    counts = counts[counts > 0].astype(np.float64)
    total = counts.sum()
    return float(np.sum(counts * (np.log2(total) - np.log2(counts)))) if len(counts) > 1 else 0.0


def entropy_bytes(symbols: Symbols) -> float:
    """Zeroth-order empirical entropy in bytes, without any table."""
    return entropy_bits(symbols.counted[1]) / 8


def zero_split(found: Histogram) -> tuple[float, float]:
    """Bits for where the nonzero symbols are, n·H(zero flag), and for which they are, nnz·H(symbol | nonzero)."""
    nonzero = found.counts[found.used != 0]
    zeros = found.total - int(nonzero.sum())
    return entropy_bits(np.array([zeros, nonzero.sum()])), entropy_bits(nonzero)
