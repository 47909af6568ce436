"""Convolution of signs with signs; the zeros at the border of an image are no signs and add nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.runtime.kernels.geometry import Geometry
from tersenet.runtime.kernels.inputs import as_images
from tersenet.runtime.kernels.jit import jit
from tersenet.runtime.kernels.xnor import SignMatrix, pack_bits, pack_signs


@dataclass(frozen=True, eq=False)
class SignConv2d:
    """Filters of ±1 or ±scale [filters, channels, height, width].

    matrix: [filters, taps · ⌈channels / 64⌉ · 64] by taps, then channels. border: int32 [taps, filters], what a tap
        gives where all its bits are 0, as they are outside of the image.
    """

    matrix: SignMatrix
    border: np.ndarray
    channels: int
    geometry: Geometry

    @property
    def bytes(self) -> int:
        return self.matrix.bytes + self.border.nbytes

    def __call__(self, x: Any) -> np.ndarray:
        """The convolution of the signs of `x` float32 [batch, channels, height, width], where x ≥ 0 counts as +1:
        float32 [batch, filters, height, width]. Raises DataError for another shape or type."""
        found = self.products(pack_pixels(as_images(x, self.channels))).astype(np.float32)
        return found if self.matrix.scale is None else found * self.matrix.scale[:, None, None]

    def products(self, pixels: np.ndarray) -> np.ndarray:
        """Without the scale, of images as `pack_pixels` gives them: int32 [batch, filters, height, width], exact."""
        batch, height, width, _ = pixels.shape
        down, across = self.geometry.output(height, width)
        bits = patches(pixels, down, across, self.geometry.numbers)
        flat = self.matrix.products(bits.reshape(batch * down * across, bits.shape[3]))
        sums = flat.reshape(batch, down, across, self.matrix.rows)
        take_border(sums, self.border, height, width, self.geometry.numbers)
        return sums.transpose(0, 3, 1, 2)


def pack_sign_filters(weight: Code | np.ndarray, geometry: Geometry) -> SignConv2d:
    """Of a code of form binary, or an array of ±1, [filters, channels, height, width]. Raises ModelError for others."""
    if len(weight.shape) != 4 or tuple(weight.shape[2:]) != geometry.kernel:
        raise ModelError(f"filters of {geometry.kernel} have four axes, not the shape {tuple(weight.shape)}")
    filters, channels = weight.shape[:2]
    flat = pack_signs(weight)  # checks the values
    signs = unpack(flat).reshape(filters, channels, geometry.taps).transpose(0, 2, 1)
    bits = pack_bits(np.ascontiguousarray(signs).reshape(-1, channels))  # [filters · taps, words]
    padded = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little").reshape(filters, geometry.taps, -1)
    matrix = pack_signs(2 * padded.reshape(filters, -1).astype(np.int8) - 1)
    border = (channels - 2 * padded.sum(2, dtype=np.int32)).T
    # Bits beyond the channels are equal on both sides, so they never differ: the columns that count are the channels'.
    held = SignMatrix(matrix.words, filters, channels * geometry.taps, flat.scale)
    return SignConv2d(held, np.ascontiguousarray(border), channels, geometry)


def unpack(matrix: SignMatrix) -> np.ndarray:
    """The signs, float32 [rows, columns]."""
    rows = np.ascontiguousarray(matrix.words.transpose(0, 2, 1)).reshape(-1, matrix.words.shape[1])
    bits = np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")[: matrix.rows, : matrix.columns]
    return 2 * bits.astype(np.float32) - 1


@jit
def pack_pixels(x):  # type: ignore[no-untyped-def]
    """Signs of images [batch, channels, height, width] over the channels: uint64 [batch, height, width, words]."""
    batch, channels, height, width = x.shape
    out = np.zeros((batch, height, width, (channels + 63) // 64), np.uint64)
    for n in range(batch):
        for c in range(channels):
            word, bit = c // 64, np.uint64(c % 64)
            for i in range(height):
                for j in range(width):
                    out[n, i, j, word] |= np.uint64(x[n, c, i, j] >= 0) << bit
    return out


@jit
def patches(pixels, down, across, numbers):  # type: ignore[no-untyped-def]
    """What each window sees, by taps, then words, with words of 0 outside: uint64 [batch, down, across, words]."""
    high, wide, step_down, step_across, top, left, far_down, far_across = numbers
    batch, height, width, words = pixels.shape
    out = np.zeros((batch, down, across, high * wide * words), np.uint64)
    for n in range(batch):
        for i in range(down):
            for j in range(across):
                for tap in range(high * wide):
                    y = i * step_down - top + tap // wide * far_down
                    x = j * step_across - left + tap % wide * far_across
                    if 0 <= y < height and 0 <= x < width:
                        for k in range(words):
                            out[n, i, j, tap * words + k] = pixels[n, y, x, k]
    return out


@jit
def take_border(sums, border, height, width, numbers):  # type: ignore[no-untyped-def]
    """Takes from sums [batch, down, across, filters] what taps outside of the image have added."""
    high, wide, step_down, step_across, top, left, far_down, far_across = numbers
    for i in range(sums.shape[1]):
        for j in range(sums.shape[2]):
            for tap in range(high * wide):
                y = i * step_down - top + tap // wide * far_down
                x = j * step_across - left + tap % wide * far_across
                if not (0 <= y < height and 0 <= x < width):
                    for n in range(len(sums)):
                        for o in range(sums.shape[3]):
                            sums[n, i, j, o] -= border[tap, o]
