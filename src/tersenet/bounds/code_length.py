"""How many bits symbols need at least under a model that looks at one symbol at a time.

Both lengths are ideal: no integer code words, no rounding of frequencies, no last byte. A coder that finds structure
between symbols (contexts) may go below them; for symbols drawn independently none does by more than a few bits, on
average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln


@dataclass(frozen=True)
class CodeLength:
    """Bits for one row of symbols, under three models of rising wit.

    alphabet: n·log2 A, every symbol in the fewest bits that tell A apart.
    zeroth: n·H, the empirical entropy; whoever decodes must be told the frequencies besides (a table).
    adaptive: the Krichevsky-Trofimov code, which learns the frequencies as it goes and needs no table.
    """

    alphabet: float
    zeroth: float
    adaptive: float


def code_length(counts: np.ndarray, alphabet: int) -> CodeLength:
    """counts: how often each symbol that occurs does, [m]; alphabet: how many symbols there are, A ≥ m."""
    total = int(np.sum(counts))
    uniform = total * math.log2(alphabet) if total else 0.0
    return CodeLength(uniform, zeroth_order_bits(counts), adaptive_bits(counts, alphabet))


def zeroth_order_bits(counts: np.ndarray) -> float:
    """n·H(counts / n): the shortest code for n symbols that gives each a price of its own and nothing else."""
    counts = np.asarray(counts, np.float64)
    counts = counts[counts > 0]
    return float(np.sum(counts * np.log2(counts.sum() / counts))) if len(counts) > 1 else 0.0


def adaptive_bits(counts: np.ndarray, alphabet: int) -> float:
    """−log2 of the probability that the estimator (n_s + ½) / (t + A/2) gives to the row, in any order of its symbols.

    Krichevsky and Trofimov 1981, "The performance of universal encoding": at most (A − 1)/2 · log2 n + O(A) bits above
    the zeroth-order entropy, for every row, which is optimal to the constant. In closed form
    P = Γ(A/2) / Γ(n + A/2) · Π_s Γ(n_s + ½) / Γ(½).
    """
    counts = np.asarray(counts, np.float64)
    counts = counts[counts > 0]
    if len(counts) > alphabet:
        raise ValueError(f"{len(counts)} symbols occur, more than the alphabet's {alphabet}")
    if not len(counts) or alphabet == 1:
        return 0.0
    nats = gammaln(counts.sum() + alphabet / 2) - gammaln(alphabet / 2) - np.sum(gammaln(counts + 0.5) - gammaln(0.5))
    return float(nats) / math.log(2)


@dataclass(frozen=True)
class TensorLength:
    """Bytes of one tensor as written, beside the ideal ones.

    weights: its entries. streams: written for its symbols, with the coders' own tables. others: written for codebooks,
    scales and values, which no bound here speaks of. plain: its tables' numbers in their own types, and the symbols in
    log2 of their alphabets. entropy: zeroth order, of the symbols. coder_tables: the frequencies, as written.
    adaptive: Krichevsky-Trofimov, of the symbols. disk: all that it takes in the file, its record in the index too.
    """

    name: str
    weights: int
    streams: int
    others: int
    plain: float
    entropy: float
    coder_tables: int
    adaptive: float
    disk: int

    @property
    def with_table(self) -> float:
        """Entropy and the frequencies that it needs."""
        return self.entropy + self.coder_tables

    @property
    def ideal(self) -> float:
        """The shorter of the two ways to tell the symbols and their frequencies."""
        return min(self.with_table, self.adaptive)


def ideal_of(rows: Sequence[TensorLength]) -> float:
    """Of several tensors, each by the way that is shorter for it."""
    return sum(row.ideal for row in rows)
