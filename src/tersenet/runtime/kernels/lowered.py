"""Convolution as a matrix product, without the rows and columns of the lowered matrix that are all zero.

Wen et al. 2016, "Learning Structured Sparsity in Deep Neural Networks", arXiv 1608.03665, §3.1–3.2 and figure 4: rows
are filters, columns are filter shapes; what is left is a smaller dense product. The images are not lowered for it. In
an image with its padding, kept line after line, what a tap sees is the image itself from another place on; with steps
of more than one the same holds for the image of every such pixel. So each column is read where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.forms.form import decode
from tersenet.runtime.kernels.geometry import Geometry
from tersenet.runtime.kernels.inputs import as_images
from tersenet.runtime.kernels.jit import jit
from tersenet.runtime.kernels.threads import cuts, parts, spread
from tersenet.runtime.kernels.vectors import LANES, block_of_four, block_of_two, copy_lanes


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
        down, across = self.geometry.output(*images.shape[2:])
        out = np.empty((len(images), self.filters, down, across), np.float32)
        work = len(images) * (self._blocks + 1)
        shares = cuts(work, parts(len(images) * down * across * self.matrix.size))
        spread(convolve, [(images, *self._packed, out, self.geometry.numbers, a, b) for a, b in shares])
        return out

    @property
    def _blocks(self) -> int:
        return -(-len(self.rows) // 4)

    @cached_property
    def _packed(self) -> tuple[np.ndarray, ...]:
        """Blocks of four rows, a column of a block after the other; the last has two rows where that is enough. Then
        the filter of each row, those without a row, the channels that are read, and columns as places among these."""
        height = 2 if 0 < len(self.rows) % 4 < 3 else 4
        whole = np.zeros((4 * self._blocks, len(self.columns)), np.float32)
        whole[: len(self.rows)] = self.matrix
        blocks = np.split(whole, self._blocks) if self._blocks else []
        flat = [block.T for block in blocks[:-1]] + [block[:height].T for block in blocks[-1:]]
        channels, taps = np.divmod(self.columns, self.geometry.taps)
        read, own = np.unique(channels, return_inverse=True)
        weights = np.concatenate([part.ravel() for part in flat]) if flat else np.zeros(0, np.float32)
        empty = np.setdiff1d(np.arange(self.filters), self.rows)
        return weights, self.rows, empty, read, own * self.geometry.taps + taps


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
def convolve(x, weights, rows, empty, read, columns, out, numbers, start, end):  # type: ignore[no-untyped-def]
    """Work from start to end: for each image one piece for the filters without a row, then one for each block."""
    high, wide, step_down, step_across, _, _, far_down, far_across = numbers
    down, across, blocks = out.shape[2], out.shape[3], (len(rows) + 3) // 4
    lines, line = (high - 1) * far_down // step_down + down, (wide - 1) * far_across // step_across + across
    tiles = ((down - 1) * line + across + 2 * LANES - 1) // (2 * LANES)
    places = np.empty(len(columns), np.int64)
    for k in range(len(columns)):
        channel, tap = divmod(columns[k], high * wide)
        y, z = tap // wide * far_down, tap % wide * far_across
        part = (channel * step_down + y % step_down) * step_across + z % step_across
        places[k] = (part * lines + y // step_down) * line + z // step_across
    pixels = np.zeros(len(read) * step_down * step_across * lines * line + 4 * LANES, np.float32)
    sums = np.empty(4 * tiles * 2 * LANES, np.float32)
    held = -1
    for piece in range(start, end):
        n, block = divmod(piece, blocks + 1)
        if block == 0:
            for row in empty:
                out[n, row] = 0
            continue
        if n != held:
            part_pixels(x[n], read, pixels, lines, line, numbers)
            held = n
        first = 4 * (block - 1)
        height = min(4, len(rows) - first)
        for tile in range(tiles):
            at = tile * 2 * LANES
            if height > 2:
                block_of_four(sums, at, tiles * 2 * LANES, weights, first * len(columns), pixels, at, places)
            else:
                block_of_two(sums, at, tiles * 2 * LANES, weights, first * len(columns), pixels, at, places)
        for r in range(height):
            take_lines(sums, r * tiles * 2 * LANES, line, out[n, rows[first + r]])


@jit
def take_lines(sums, begin, line, found):  # type: ignore[no-untyped-def]
    """found [down, across] is the first numbers of each line of sums. 16 at once, those too many are overwritten by the
    next line; where there is no room for them, one by one."""
    down, across = found.shape
    flat = found.reshape(-1)
    for i in range(down):
        done = 0
        while done < across and i * across + done + LANES <= down * across:
            copy_lanes(flat, i * across + done, sums, begin + i * line + done)
            done += LANES
        for j in range(done, across):
            flat[i * across + j] = sums[begin + i * line + j]


@jit
def part_pixels(image, read, pixels, lines, line, numbers):  # type: ignore[no-untyped-def]
    """pixels [channel read, place in a step down, across, lines, line] inside the padding, which stays zero."""
    _, _, step_down, step_across, top, left, _, _ = numbers
    height, width = image.shape[1:]
    whole = step_down == 1 and step_across == 1 and top == 0 and left == 0 and line == width
    for c in range(len(read)):
        if whole:
            source = image[read[c]].reshape(-1)
            for j in range(lines * line):
                pixels[c * lines * line + j] = source[j]
            continue
        for y in range(min(height, lines * step_down - top)):
            line_of, source = (y + top) // step_down, image[read[c], y]
            for b in range(step_across):
                part = (c * step_down + (y + top) % step_down) * step_across + b
                begin = (part * lines + line_of) * line
                first = max(0, (left - b + step_across - 1) // step_across)
                last = min(line, (width + left - b + step_across - 1) // step_across)
                for j in range(first, last):
                    pixels[begin + j] = source[j * step_across + b - left]
