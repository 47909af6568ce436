"""2:4: of every four inputs two count, with their places in two bits each.

Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", arXiv 2104.08378, §3.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.forms.form import stream, table
from tersenet.forms.nm import Packed
from tersenet.forms.nm import pack as pack_nm
from tersenet.runtime.kernels.inputs import as_rows, like
from tersenet.runtime.kernels.jit import jit
from tersenet.runtime.kernels.threads import cuts, parts, spread
from tersenet.runtime.kernels.vectors import LANES, WIDE, add_four, add_four_wide

BLOCK = 128
"""Rows done together: their sums, of 64 inputs side by side, fill the first cache; inputs do not fit into it, and are
read once for all of them."""


@dataclass(frozen=True, eq=False)
class SemiStructured:
    """A 2:4 matrix [rows, columns], eight columns at a time, rows side by side.

    values: float32 [⌈columns / 8⌉, 4, rows], two of each four columns, in order. places: uint8 [⌈columns / 8⌉, rows],
        place of each value in its four, two bits each, the first in the lowest bits.
    """

    values: np.ndarray
    places: np.ndarray
    columns: int

    @property
    def rows(self) -> int:
        return int(self.values.shape[2])

    @property
    def bytes(self) -> int:
        return self.values.nbytes + self.places.nbytes

    def __call__(self, x: Any) -> np.ndarray:
        """The product with `x` float32 [columns] or [batch, columns]: float32 [rows] or [batch, rows].

        Raises DataError for another shape or type.
        """
        inputs = as_rows(x, self.columns)
        padded = np.zeros((len(inputs), 8 * len(self.values)), np.float32)
        padded[:, : self.columns] = inputs
        return like(x, self._singly(padded) if len(inputs) < LANES // 2 else self._together(padded))

    def _singly(self, x: np.ndarray) -> np.ndarray:
        out = np.zeros((len(x), self.rows), np.float32)
        shares = cuts(self.rows, parts(self.values.size), LANES)
        spread(add_rows, [(x, self.values, self.places, a, b, out) for a, b in shares])
        return out

    def _together(self, x: np.ndarray) -> np.ndarray:
        """16 or 64 inputs side by side."""
        lanes = WIDE if len(x) > WIDE // 2 else LANES
        tiles = -(-len(x) // lanes)
        filled = np.zeros((tiles * lanes, x.shape[1]), np.float32)
        filled[: len(x)] = x
        beside = np.ascontiguousarray(filled.reshape(tiles, lanes, -1).transpose(0, 2, 1))
        out = np.zeros((tiles, self.rows, lanes), np.float32)
        shares = cuts(self.rows, parts(self.values.size * tiles), BLOCK)
        spread(add_tiles, [(beside, self.values, self.places, a, b, out) for a, b in shares])
        return np.ascontiguousarray(out.transpose(0, 2, 1)).reshape(-1, self.rows)[: len(x)]


def pack_semi_structured(weight: Code | Packed | torch.Tensor) -> SemiStructured:
    """Of a code of form nm, of its packed form, or of a matrix [rows, columns]. Raises ModelError unless it is 2:4."""
    if isinstance(weight, torch.Tensor):
        try:
            weight = pack_nm(weight.detach().float().cpu())
        except ValueError as error:
            raise ModelError(f"the matrix is not 2:4: {error}") from None
    values, places, columns = _of_code(weight) if isinstance(weight, Code) else _of_packed(weight)
    rows, held = values.shape
    whole = -(-columns // 8)
    own = np.zeros((rows, 4 * whole), np.float32)
    own[:, :held] = values
    numbers = np.zeros((rows, 4 * whole), np.uint8)
    numbers[:, :held] = places
    bits = (numbers.reshape(rows, whole, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(2, dtype=np.uint8)
    beside = np.ascontiguousarray(own.reshape(rows, whole, 4).transpose(1, 2, 0))
    return SemiStructured(beside, np.ascontiguousarray(bits.T), columns)


def to_gpu(weight: torch.Tensor) -> torch.Tensor:
    """A 2:4 matrix [rows, columns] of float16 or bfloat16 as PyTorch's semi-structured tensor on the GPU, which
    `torch.nn.functional.linear` takes. Raises ModelError where there is no GPU, or it cannot."""
    if not torch.cuda.is_available():
        raise ModelError("semi-structured tensors need an NVIDIA GPU, Ampere or later, and PyTorch sees none")
    try:
        found: torch.Tensor = torch.sparse.to_sparse_semi_structured(weight.cuda())
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise ModelError(f"PyTorch cannot hold this weight as semi-structured: {str(error).splitlines()[0]}") from None
    return found


def _of_code(code: Code) -> tuple[np.ndarray, np.ndarray, int]:
    """Values and their places, both [rows, columns / 2], and the columns."""
    options = tuple(code.options.get(name) for name in ("n", "m", "axis"))
    if code.form != "nm" or options != (2, 4, 1) or len(code.shape) != 2:
        raise ModelError(f"a weight of form '{code.form}' and shape {list(code.shape)} is no 2:4 matrix")
    rows, columns = code.shape
    choices = np.array(list(combinations(range(4), 2)), np.uint8)
    places = choices[stream(code, "places").values]
    return table(code, "values").float().numpy().reshape(rows, -1), places.reshape(rows, columns // 2), columns


def _of_packed(packed: Packed) -> tuple[np.ndarray, np.ndarray, int]:
    if (packed.n, packed.m) != (2, 4):
        raise ModelError(f"the kernel computes 2:4, not {packed.n}:{packed.m}")
    held = packed.indices.cpu().numpy()[:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    values = packed.values.float().cpu().numpy()
    return values, held.reshape(len(values), -1)[:, : values.shape[1]], packed.columns


@jit
def pick(a, b, c, d, place):  # type: ignore[no-untyped-def]
    """One of four numbers: choices instead of a look-up, so that the compiler puts many rows side by side."""
    low = b if place & 1 else a
    high = d if place & 1 else c
    return high if place & 2 else low


@jit
def add_rows(x, values, places, start, end, out):  # type: ignore[no-untyped-def]
    """out[n, r] += Σ values · x for the rows from start to end; x [batch, 8 · blocks]."""
    for n in range(len(x)):
        sums = out[n, start:end]
        for q in range(len(values)):
            a, b, c, d = x[n, 8 * q], x[n, 8 * q + 1], x[n, 8 * q + 2], x[n, 8 * q + 3]
            e, f, g, h = x[n, 8 * q + 4], x[n, 8 * q + 5], x[n, 8 * q + 6], x[n, 8 * q + 7]
            own = places[q, start:end]
            first, second = values[q, 0, start:end], values[q, 1, start:end]
            third, fourth = values[q, 2, start:end], values[q, 3, start:end]
            for r in range(len(sums)):
                where = np.int32(own[r])
                low = first[r] * pick(a, b, c, d, where) + second[r] * pick(a, b, c, d, where >> 2)
                high = third[r] * pick(e, f, g, h, where >> 4) + fourth[r] * pick(e, f, g, h, where >> 6)
                sums[r] += low + high


@jit
def add_tiles(x, values, places, start, end, out):  # type: ignore[no-untyped-def]
    """The same for 16 or 64 inputs side by side: x [tiles, 8 · blocks, lanes], out [tiles, rows, lanes]."""
    tiles, padded, lanes = x.shape
    rows, flat, sums = out.shape[1], x.reshape(-1), out.reshape(-1)
    for block in range(start, end, BLOCK):
        for q in range(len(values)):
            for r in range(block, min(block + BLOCK, end)):
                where = np.int64(places[q, r])
                first, second = 8 * q + (where & 3), 8 * q + (where >> 2 & 3)
                third, fourth = 8 * q + 4 + (where >> 4 & 3), 8 * q + 4 + (where >> 6)
                factors = (values[q, 0, r], values[q, 1, r], values[q, 2, r], values[q, 3, r])
                for tile in range(tiles):
                    here = tile * padded
                    cells = (here + first, here + second, here + third, here + fourth)
                    read = (cells[0] * lanes, cells[1] * lanes, cells[2] * lanes, cells[3] * lanes)
                    if lanes == WIDE:
                        add_four_wide(sums, (tile * rows + r) * WIDE, flat, read, factors)
                    else:
                        add_four(sums, (tile * rows + r) * LANES, flat, read, factors)
