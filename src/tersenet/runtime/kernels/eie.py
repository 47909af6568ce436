"""Sparse weights of shared values times sparse activations: columns of codes, read only where the input is not zero.

Han et al. 2016, "EIE: Efficient Inference Engine on Compressed Deep Neural Network", arXiv 1602.01528, §III.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tersenet.core.code import Code
from tersenet.runtime.kernels.inputs import as_rows, like, scaled
from tersenet.runtime.kernels.jit import fetch, jit
from tersenet.runtime.kernels.levels import Levels, levels_of
from tersenet.runtime.kernels.threads import cuts, parts, spread


@dataclass(frozen=True, eq=False)
class SparseColumns:
    """A matrix [rows, columns] column after column, one word for each entry other than zero.

    words: [words]; in the lowest `bits` bits the number of the value, above them how many zeros stand between this
        entry and the one before in its column. Codes of 4 bits make words of 8, with 4 bits for the zeros, as in the
        paper; longer codes make words of 16. Where more zeros follow than a word can say, an entry with the value zero
        stands between.
    starts: uint32 [columns + 1], first word of each column. book: float32 [2^bits], book[0] = 0.
    scale: float32 [rows], by which the values of a row are multiplied, or None.
    """

    words: np.ndarray
    starts: np.ndarray
    book: np.ndarray
    bits: int
    rows: int
    scale: np.ndarray | None = None

    @property
    def columns(self) -> int:
        return len(self.starts) - 1

    @property
    def bytes(self) -> int:
        return sum(a.nbytes for a in (self.words, self.starts, self.book, self.scale) if a is not None)

    def __call__(self, x: Any) -> np.ndarray:
        """The product with `x` float32 [columns] or [batch, columns]: float32 [rows] or [batch, rows].

        Columns at which an input is zero are not read. Raises DataError for another shape or type.
        """
        inputs = as_rows(x, self.columns)
        if len(inputs) == 1:
            return like(x, scaled(self._one(inputs[0])[None], self.scale))
        out = np.zeros((len(inputs), self.rows), np.float32)
        shares = cuts(len(inputs), parts(len(self.words) * len(inputs)))
        spread(self._some, [(inputs[start:end], out[start:end]) for start, end in shares])
        return scaled(out, self.scale)

    def _some(self, inputs: np.ndarray, out: np.ndarray) -> None:
        for x, sums in zip(inputs, out, strict=True):
            add_columns(x, nonzeros(x, self.starts)[0], self.starts, self.words, self.book, self.bits, sums)

    def _one(self, x: np.ndarray) -> np.ndarray:
        """One vector: the active columns over the threads, each with sums of its own."""
        active, words = nonzeros(x, self.starts)
        shares = cuts(len(active), parts(words))
        sums = np.zeros((max(len(shares), 1), self.rows), np.float32)
        packed = (self.starts, self.words, self.book, self.bits)
        spread(add_columns, [(x, active[a:b], *packed, own) for (a, b), own in zip(shares, sums, strict=False)])
        total: np.ndarray = sums[0] if len(sums) == 1 else sums.sum(0)
        return total


def pack_columns(weight: Code | Levels) -> SparseColumns:
    """Columns of codes of a weight that has one book of at most 256 values; ModelError for others."""
    found = levels_of(weight) if isinstance(weight, Code) else weight
    bits = max(4, int(len(found.book) - 1).bit_length())
    places = np.flatnonzero(found.index)
    rows, columns = np.divmod(places, max(found.columns, 1))
    order = np.argsort(columns, kind="stable")
    codes, rows, columns = found.index[places[order]], rows[order], columns[order]
    starts = np.concatenate([[0], np.bincount(columns, minlength=found.columns).cumsum()])
    words, ends = _words(codes, rows, np.diff(columns, prepend=-1) > 0, bits)
    book = np.zeros(1 << bits, np.float32)
    book[: len(found.book)] = found.book
    return SparseColumns(words, ends[starts].astype(np.uint32), book, bits, found.rows, found.scale)


def _words(codes: np.ndarray, rows: np.ndarray, first: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The words of entries in the order of columns, `first` of one or not; and how many words lie before each."""
    dtype, reach = (np.uint8, 16) if bits == 4 else (np.uint16, 1 << (16 - bits))
    zeros = rows - 1 - np.where(first, -1, np.roll(rows, 1))
    ends = np.concatenate([[0], np.cumsum(zeros // reach + 1)])
    words = np.full(ends[-1], (reach - 1) << bits, dtype)  # as many zeros as a word can say, and one more
    words[ends[1:] - 1] = (zeros % reach) << bits | codes
    return words, ends


@jit
def nonzeros(x, starts):  # type: ignore[no-untyped-def]
    """Places at which `x` is not zero, int32, and how many words their columns hold."""
    found = np.empty(len(x), np.int32)
    count, words = 0, np.int64(0)
    for j in range(len(x)):
        if x[j] != 0:
            found[count] = j
            count += 1
            words += np.int64(starts[j + 1]) - np.int64(starts[j])
    return found[:count], words


@jit
def add_columns(x, active, starts, words, book, bits, sums):  # type: ignore[no-untyped-def]
    """sums[row] += x[column] · value, for every word of the active columns."""
    shift, low = np.uint64(bits), np.uint64((1 << bits) - 1)
    for i, j in enumerate(active):
        if i + 2 < len(active):  # the processor cannot guess which columns are left out
            after = active[i + 2]
            for p in range(np.int64(starts[after]), np.int64(starts[after + 1]), 64 // words.itemsize):
                fetch(words, p)
        v, row = x[j], np.uint64(0)
        for p in range(np.uint64(starts[j]), np.uint64(starts[j + 1])):
            word = np.uint64(words[p])
            row += word >> shift
            sums[row] += book[word & low] * v
            row += np.uint64(1)
