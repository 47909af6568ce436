"""Products by looking up partial sums: what a piece of the input makes of every centroid is computed once and added up.

Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search", §III.B, asymmetric distances; of layers Wu et al.
2016, "Quantized Convolutional Neural Networks for Mobile Devices", arXiv 1512.06473, §3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.forms.codebook import from_tables
from tersenet.forms.form import stream
from tersenet.forms.product import LAYOUTS
from tersenet.runtime.kernels.inputs import as_rows, like, scaled
from tersenet.runtime.kernels.jit import jit
from tersenet.runtime.kernels.levels import Levels, levels_of
from tersenet.runtime.kernels.threads import cuts, parts, spread
from tersenet.runtime.kernels.vectors import LANES, add_four

TABLE = 256
"""Entries of a table of partial sums, where the choice is free: codes of a byte, and a table that stays in cache."""


@dataclass(frozen=True, eq=False)
class LookupMatrix:
    """A matrix [rows, columns] whose rows, in pieces of `size` entries, are centroids.

    index: uint8 or int32 [pieces, rows]. books: float32 [pieces or 1, centroids, size]; 1 where all pieces share one.
    columns: the last piece may reach beyond them. scale: float32 [rows], by which a row is multiplied, or None.
    """

    index: np.ndarray
    books: np.ndarray
    columns: int
    scale: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return int(self.index.shape[1])

    @property
    def bytes(self) -> int:
        return sum(a.nbytes for a in (self.index, self.books, self.scale) if a is not None)

    def __call__(self, x: Any) -> np.ndarray:
        """The product with `x` float32 [columns] or [batch, columns]: float32 [rows] or [batch, rows].

        Raises DataError for another shape or type.
        """
        inputs = as_rows(x, self.columns)
        pieces, size = len(self.index), self.books.shape[2]
        padded = np.zeros((len(inputs), pieces * size), np.float32)
        padded[:, : self.columns] = inputs
        cut = padded.reshape(-1, pieces, size)
        sums = self._singly(cut) if len(inputs) < LANES // 2 else self._together(cut)
        return like(x, scaled(sums, self.scale))

    def _singly(self, x: np.ndarray) -> np.ndarray:
        """Input by input, x [batch, pieces, size]; a table of each piece, then one look into it for each row."""
        books, cut = torch.from_numpy(self.books), torch.from_numpy(x)
        one = len(books) == 1
        tables = torch.matmul(cut, books[0].T) if one else torch.einsum("bgd,gkd->bgk", cut, books).contiguous()
        out = np.zeros((len(x), self.rows), np.float32)
        for own, sums in zip(tables.numpy(), out, strict=True):
            shares = cuts(self.rows, parts(self.index.size), 16)
            spread(add_entries, [(own, self.index, a, b, sums) for a, b in shares])
        return out

    def _together(self, x: np.ndarray) -> np.ndarray:
        """16 inputs side by side in each entry of the tables, which are made four at a time and used while in cache."""
        batch, pieces, size = x.shape
        tiles = -(-batch // LANES)
        beside = np.zeros((tiles, pieces + -pieces % 4, size + -size % 4, LANES), np.float32)
        filled = np.zeros((tiles * LANES, pieces, size), np.float32)
        filled[:batch] = x
        beside[:, :pieces, :size] = filled.reshape(tiles, LANES, pieces, size).transpose(0, 2, 3, 1)
        out = np.zeros((tiles, self.rows, LANES), np.float32)
        shares = cuts(tiles, parts(self.index.size * tiles))
        spread(add_vectors, [(beside[a:b], self.books, self.index, out[a:b]) for a, b in shares])
        return np.ascontiguousarray(out.transpose(0, 2, 1)).reshape(-1, self.rows)[:batch]


@dataclass(frozen=True, eq=False)
class BinMatrix:
    """A matrix whose columns, in parts of `size` entries, are centroids: inputs of the same centroid are added first.

    index: uint8 or int32 [columns, parts]. books: float32 [parts, centroids, size]; parts · size rows.
    """

    index: np.ndarray
    books: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.books.shape[0] * self.books.shape[2])

    @property
    def columns(self) -> int:
        return len(self.index)

    @property
    def bytes(self) -> int:
        return self.index.nbytes + self.books.nbytes

    def __call__(self, x: Any) -> np.ndarray:
        """The product with `x` float32 [columns] or [batch, columns]: float32 [rows] or [batch, rows]; inputs of zero
        cost nothing. Raises DataError for another shape or type."""
        inputs = as_rows(x, self.columns)
        bins = np.zeros((len(inputs), *self.books.shape[:2]), np.float32)
        shares = cuts(self.index.shape[1], parts(self.index.size * len(inputs)))
        spread(fill_bins, [(inputs, self.index, a, b, bins) for a, b in shares])
        found = torch.einsum("bgk,gkd->bgd", torch.from_numpy(bins), torch.from_numpy(self.books))
        return like(x, found.reshape(len(inputs), self.rows).numpy())


def pack_product(code: Code) -> LookupMatrix | BinMatrix:
    """Of a code of form product without a mask; a weight of more than two axes as a matrix, dimension 0 by all others.

    Raises ModelError for other codes.
    """
    if code.form != "product" or "mask" in code.streams:
        raise ModelError(
            f"a weight of form '{code.form}', or one with zeros, has no centroids that hold for whole pieces"
        )
    groups, k, layout = code.options["groups"], code.options["k"], LAYOUTS[code.options["layout"]]
    index = stream(code, "index").values.reshape(groups, -1)
    books = from_tables(code).float().reshape(groups, k, -1).numpy()
    if layout == "outputs":
        return BinMatrix(_short(index.T, k), books)
    rows = code.shape[0]
    own = index if layout == "inputs" else index.reshape(rows, -1).T
    return LookupMatrix(_short(own, k), books, prod(code.shape[1:]))


def pack_lookup(weight: Code | Levels) -> LookupMatrix:
    """Of a weight of at most 256 values: as many entries of a row to a piece as have 256 combinations together.

    Two entries of 16 values, eight signs. Raises ModelError for other weights.
    """
    found = levels_of(weight) if isinstance(weight, Code) else weight
    index, values = found.index.reshape(found.rows, found.columns), found.book
    if index.size and index.min() > 0:  # no entry is zero
        index, values = index - 1, values[1:]
    size = max(n for n in range(1, 9) if len(values) ** n <= TABLE or n == 1)
    pieces = -(-found.columns // size)
    padded = np.zeros((found.rows, pieces * size), np.int64)
    padded[:, : found.columns] = index
    numbers = padded.reshape(found.rows, pieces, size) @ (len(values) ** np.arange(size)[::-1])
    book = np.array(list(product(values.tolist(), repeat=size)), np.float32)
    return LookupMatrix(_short(numbers.T, len(book)), book[None], found.columns, found.scale)


def pack_sign_lookup(signs: np.ndarray) -> LookupMatrix:
    """Of ±1 [rows, columns], for inputs that are no signs. Raises ModelError for other values."""
    if not np.isin(signs, (-1, 1)).all():
        raise ModelError("a matrix of signs has other entries than −1 and 1")
    index = (signs.reshape(-1) > 0) + np.int32(1)
    return pack_lookup(Levels(index, np.array([0, -1, 1], np.float32), *signs.shape))


def _short(index: np.ndarray, centroids: int) -> np.ndarray:
    return np.ascontiguousarray(index, dtype=np.uint8 if centroids <= 256 else np.int32)


@jit
def add_entries(tables, index, start, end, sums):  # type: ignore[no-untyped-def]
    """sums[r] += Σ_g tables[g, index[g, r]] for the rows from start to end; four pieces at a time."""
    whole = len(index) // 4 * 4
    own = sums[start:end]
    for g in range(0, whole, 4):
        a, b, c, d = tables[g], tables[g + 1], tables[g + 2], tables[g + 3]
        i, j = index[g, start:end], index[g + 1, start:end]
        k, l = index[g + 2, start:end], index[g + 3, start:end]  # noqa: E741
        for r in range(len(own)):
            first = a[np.uint64(i[r])] + b[np.uint64(j[r])]
            own[r] += first + (c[np.uint64(k[r])] + d[np.uint64(l[r])])
    for g in range(whole, len(index)):
        i = index[g, start:end]
        for r in range(len(own)):
            own[r] += tables[g, np.uint64(i[r])]


@jit
def add_vectors(x, books, index, out):  # type: ignore[no-untyped-def]
    """The same for 16 inputs side by side: x [tiles, pieces, size, 16], both padded to multiples of four with zeros;
    out [tiles, rows, 16]. Where pieces are no multiple of four, the last ones look at a table of zeros."""
    tiles, padded, size, lanes = x.shape
    pieces, rows, centroids = len(index), index.shape[1], books.shape[1]
    flat, sums, one = x.reshape(-1), out.reshape(-1), np.float32(1)
    tables = np.empty(4 * centroids * lanes, np.float32)
    step = centroids * lanes
    for tile in range(tiles):
        for g in range(0, padded, 4):
            for piece in range(g, g + 4):
                own = (piece - g) * step
                make_table(flat, (tile * padded + piece) * size * lanes, books[min(piece, len(books) - 1)], tables, own)
            last = pieces - 1
            for r in range(rows):
                first, second = index[g, r], centroids + index[min(g + 1, last), r]
                third, fourth = 2 * centroids + index[min(g + 2, last), r], 3 * centroids + index[min(g + 3, last), r]
                places = (first * lanes, second * lanes, third * lanes, fourth * lanes)
                add_four(sums, (tile * rows + r) * lanes, tables, places, (one, one, one, one))


@jit
def make_table(x, place, book, tables, own):  # type: ignore[no-untyped-def]
    """tables[own + 16·c :] = Σ_i book[c, i] · x[place + 16·i :], 16 numbers each, for every centroid c."""
    for c in range(len(book)):
        at = own + c * 16
        for lane in range(16):
            tables[at + lane] = 0
        for i in range(0, book.shape[1], 4):
            first, second, third, fourth = book[c, i], np.float32(0), np.float32(0), np.float32(0)
            if i + 1 < book.shape[1]:
                second = book[c, i + 1]
            if i + 2 < book.shape[1]:
                third = book[c, i + 2]
            if i + 3 < book.shape[1]:
                fourth = book[c, i + 3]
            p = place + 16 * i
            add_four(tables, at, x, (p, p + 16, p + 32, p + 48), (first, second, third, fourth))


@jit
def fill_bins(x, index, start, end, bins):  # type: ignore[no-untyped-def]
    """bins[n, part, index[j, part]] += x[n, j] for the parts from start to end, where x is not zero."""
    for n in range(len(x)):
        sums = bins[n, start:end]
        for j in range(len(index)):
            v = x[n, j]
            if v != 0:
                own = index[j, start:end]
                for part in range(len(own)):
                    sums[part, np.uint64(own[part])] += v
