"""Convolution as a matrix product, without the rows and columns of the lowered matrix that are all zero.

Wen et al. 2016, "Learning Structured Sparsity in Deep Neural Networks", arXiv 1608.03665, §3.1–3.2 and figure 4: rows
are filters, columns are filter shapes; what is left is a smaller dense product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.forms.form import decode
from tersenet.runtime.kernels.geometry import Geometry
from tersenet.runtime.kernels.inputs import as_images
from tersenet.runtime.kernels.jit import jit
from tersenet.runtime.kernels.threads import cuts, parts, spread


@dataclass(frozen=True, eq=False)
class LoweredConv2d:
    """Filters [filters, channels, height, width] as a matrix of those rows and columns that hold anything.

    matrix: float32 [rows left, columns left]. rows: int64, the filter of each. columns: int64, ascending; a column is
        channel · taps + tap.
    """

    matrix: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    filters: int
    channels: int
    geometry: Geometry

    @property
    def bytes(self) -> int:
        return self.matrix.nbytes + self.rows.nbytes + self.columns.nbytes

    def __call__(self, x: Any) -> np.ndarray:
        """The convolution of `x` float32 [batch, channels, height, width]: float32 [batch, filters, height, width].

        Raises DataError for another shape or type.
        """
        images = as_images(x, self.channels)
        batch, (down, across) = len(images), self.geometry.output(*images.shape[2:])
        lowered = np.empty((batch, len(self.columns), down, across), np.float32)
        shares = cuts(len(self.columns), parts(lowered.size))
        spread(lower, [(images, self.columns, a, b, lowered, self.geometry.numbers) for a, b in shares])
        flat = torch.from_numpy(lowered).reshape(batch, len(self.columns), down * across)
        found = torch.matmul(torch.from_numpy(self.matrix), flat).numpy()
        if len(self.rows) < self.filters:
            whole = np.zeros((batch, self.filters, down * across), np.float32)
            whole[:, self.rows] = found
            found = whole
        return found.reshape(batch, self.filters, down, across)


def pack_lowered(weight: Code | np.ndarray, geometry: Geometry) -> LoweredConv2d:
    """Of a code of any form, or an array [filters, channels, height, width]. Raises ModelError for another shape."""
    if len(weight.shape) != 4 or tuple(weight.shape[2:]) != geometry.kernel:
        raise ModelError(f"filters of {geometry.kernel} have four axes, not the shape {tuple(weight.shape)}")
    held = decode(weight).float().numpy() if isinstance(weight, Code) else np.asarray(weight, np.float32)
    lowered = held.reshape(len(held), -1)
    rows, columns = (np.flatnonzero((lowered != 0).any(axis)) for axis in (1, 0))
    left = np.ascontiguousarray(lowered[np.ix_(rows, columns)])
    return LoweredConv2d(left, rows, columns, held.shape[0], held.shape[1], geometry)


@jit
def lower(x, columns, start, end, out, numbers):  # type: ignore[no-untyped-def]
    """out[n, k] [down, across] becomes what the tap of column k sees, zeros outside of the image."""
    high, wide, step_down, step_across, top, left, far_down, far_across = numbers
    height, width, across = x.shape[2], x.shape[3], out.shape[3]
    for n in range(len(x)):
        for k in range(start, end):
            channel, tap = divmod(columns[k], high * wide)
            skip = tap % wide * far_across - left
            first = min(across, max(0, -(skip // step_across)))  # the window's first place inside, and after its last
            last = min(across, max(first, (width - 1 - skip) // step_across + 1))
            for i in range(out.shape[2]):
                y = i * step_down - top + tap // wide * far_down
                row = out[n, k, i]
                if not 0 <= y < height:
                    row[:] = 0
                else:
                    source = x[n, channel, y]
                    row[:first] = 0
                    for j in range(first, last):
                        row[j] = source[j * step_across + skip]
                    row[last:] = 0
