"""Signs times signs: 64 products are one exclusive or, their sum one count of bits.

Hubara et al. 2016, "Binarized Neural Networks", arXiv 1602.02830, §4; Rastegari et al. 2016, "XNOR-Net", arXiv
1603.05279, §3.2. With −1 as bit 0 and +1 as bit 1, the product of two rows of n signs is n − 2 · ones(a xor b).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.forms.form import stream, table
from tersenet.runtime.kernels.inputs import as_rows, like, scaled
from tersenet.runtime.kernels.jit import fetch, jit, ones
from tersenet.runtime.kernels.threads import cuts, parts, spread

ROWS = 64
"""Rows that are computed side by side; their bits make one word of the next layer's input."""


@dataclass(frozen=True, eq=False)
class SignMatrix:
    """A matrix of ±1, or of ±scale, [rows, columns].

    words: uint64 [⌈rows / 64⌉, ⌈columns / 64⌉, 64]; bit b of words[r, k, o] is the sign at row 64·r + o and column
        64·k + b. Bits and rows that are none are 0. scale: float32 [rows], or None for ±1.
    """

    words: np.ndarray
    rows: int
    columns: int
    scale: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        return self.words.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def __call__(self, x: Any) -> np.ndarray:
        """The product with the signs of `x` float32 [columns] or [batch, columns], where x ≥ 0 counts as +1:
        float32 [rows] or [batch, rows]. Raises DataError for another shape or type."""
        found = self.products(pack_bits(as_rows(x, self.columns))).astype(np.float32)
        return like(x, scaled(found, self.scale))

    def products(self, bits: np.ndarray) -> np.ndarray:
        """Without the scale, with inputs as `pack_bits` gives them: int32 [batch, rows], exact."""
        out = np.empty((len(bits), self.rows), np.int32)
        self._spread(products, bits, out, self.columns)
        return out

    def fires(self, bits: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """Which rows differ from the input in at most limits [rows] places, as the bits of the next layer's input:
        uint64 [batch, ⌈rows / 64⌉]."""
        out = np.empty((len(bits), len(self.words)), np.uint64)
        self._spread(fires, bits, out, limits)
        return out

    def _spread(self, work: Any, bits: np.ndarray, out: np.ndarray, last: Any) -> None:
        """Over the batch where it is large, so that each thread reads all weights but few inputs; else over rows."""
        share, blocks = parts(len(bits) * self.words.size // 4), len(self.words)
        if len(bits) >= 4 * share:
            whole = [(bits[a:b], self.words, 0, blocks, out[a:b], last) for a, b in cuts(len(bits), share)]
            spread(work, whole)
        else:
            spread(work, [(bits, self.words, a, b, out, last) for a, b in cuts(blocks, share)])


def pack_signs(weight: Code | np.ndarray) -> SignMatrix:
    """Of a code of form binary, or of an array of ±1, dimension 0 by all others. Raises ModelError for other values."""
    if not isinstance(weight, Code):
        return _packed(np.asarray(weight).reshape(len(weight), -1), None)
    signs = stream(weight, "sign") if weight.form == "binary" else None
    if signs is None or signs.zero:
        raise ModelError(f"a weight of form '{weight.form}' with zeros or other values than two is no matrix of signs")
    rows, axis = weight.shape[0], weight.options.get("axis", -1)
    if axis > 0 and "scale" in weight.tables:
        raise ModelError(
            f"a weight with scales along axis {axis} cannot be computed from signs; use axis 0 or one scale"
        )
    scale = table(weight, "scale").float().numpy() if "scale" in weight.tables else None
    signed = (2 * signs.values - 1).reshape(rows, prod(weight.shape[1:]))
    return _packed(signed, None if scale is None else np.broadcast_to(scale, rows).copy())


def _packed(signs: np.ndarray, scale: np.ndarray | None) -> SignMatrix:
    if not np.isin(signs, (-1, 1)).all():
        raise ModelError("a matrix of signs has other entries than −1 and 1")
    rows, columns = signs.shape
    bits = np.zeros((-(-rows // ROWS) * ROWS, -(-columns // 64)), np.uint64)
    bits[:rows] = pack_bits(signs.astype(np.float32))
    words = bits.reshape(-1, ROWS, bits.shape[1]).transpose(0, 2, 1)
    return SignMatrix(np.ascontiguousarray(words), rows, columns, scale)


@jit
def pack_bits(x):  # type: ignore[no-untyped-def]
    """Signs of x [rows, columns] as uint64 [rows, ⌈columns / 64⌉]: bit b of word k is 1 where x[:, 64·k + b] ≥ 0."""
    out = np.zeros((x.shape[0], (x.shape[1] + 63) // 64), np.uint64)
    for n in range(x.shape[0]):
        row = x[n]
        for k in range(out.shape[1]):
            word = np.uint64(0)
            for b in range(min(64, x.shape[1] - 64 * k)):
                word |= np.uint64(row[64 * k + b] >= 0) << np.uint64(b)
            out[n, k] = word
    return out


@jit
def count(x, w, differ):  # type: ignore[no-untyped-def]
    """differ[o] becomes the number of bits in which x [words] and w[:, o] differ, for 64 rows; eight words at a time,
    so that the sums are read and written seldom."""
    whole = len(x) // 8 * 8
    for o in range(64):
        differ[o] = 0
    for k in range(0, whole, 8):
        for o in range(64):
            first = ones(x[k] ^ w[k, o]) + ones(x[k + 1] ^ w[k + 1, o])
            first += ones(x[k + 2] ^ w[k + 2, o]) + ones(x[k + 3] ^ w[k + 3, o])
            second = ones(x[k + 4] ^ w[k + 4, o]) + ones(x[k + 5] ^ w[k + 5, o])
            second += ones(x[k + 6] ^ w[k + 6, o]) + ones(x[k + 7] ^ w[k + 7, o])
            differ[o] += first + second
    for k in range(whole, len(x)):
        for o in range(64):
            differ[o] += ones(x[k] ^ w[k, o])


@jit
def ahead(words, block):  # type: ignore[no-untyped-def]
    """Fetches the words of a block, if there is one, while those before it are still being counted."""
    if block < len(words):
        flat, size = words.reshape(-1), words.shape[1] * 64
        for p in range(block * size, (block + 1) * size, 8):
            fetch(flat, p)


@jit
def products(bits, words, start, end, out, columns):  # type: ignore[no-untyped-def]
    """out[n, row] = columns − 2 · differences, for the rows of the blocks from `start` to `end`."""
    differ = np.empty(64, np.uint64)
    for block in range(start, end):
        ahead(words, block + 1)
        for n in range(len(bits)):
            count(bits[n], words[block], differ)
            for o in range(min(64, out.shape[1] - 64 * block)):
                out[n, 64 * block + o] = columns - 2 * np.int64(differ[o])


@jit
def fires(bits, words, start, end, out, limits):  # type: ignore[no-untyped-def]
    """Bit o of out[n, block] is 1 where row 64 · block + o differs in at most its limit of places."""
    differ = np.empty(64, np.uint64)
    for block in range(start, end):
        ahead(words, block + 1)
        for n in range(len(bits)):
            count(bits[n], words[block], differ)
            word = np.uint64(0)
            for o in range(min(64, len(limits) - 64 * block)):
                word |= np.uint64(np.int64(differ[o]) <= limits[64 * block + o]) << np.uint64(o)
            out[n, block] = word
