"""How the context coder sees a tensor, and what its encoder may choose of that: from the symbols alone, without coding.

What was chosen stands in a few bits before the coded symbols.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tersenet.coding.base import CodingError
from tersenet.coding.bits import BitReader, BitWriter
from tersenet.coding.histogram import Histogram, from_counts, histogram_of
from tersenet.core.code import Symbols

MAX_KERNEL = 64  # entries of a convolution kernel; beyond, they are columns like others
_COUNTED = 1 << 12  # largest alphabet whose counts are looked at
_MAX_LAG = 1 << 12
_CHANCE = 5.5  # standard deviations; of hundreds of distances, one is 3 to 5 by chance


@dataclass(frozen=True)
class Grid:
    """A tensor as rows × channels × kernel; `width` is the last axis of a kernel. Entries in row-major order."""

    rows: int
    channels: int
    kernel: int = 1
    width: int = 2

    @property
    def columns(self) -> int:
        return self.channels * self.kernel


@dataclass(frozen=True)
class Way:
    """How a tensor is written.

    zero: symbol 0 is n = 0, then come the `negative` symbols below zero, then those above; else n = symbol − negative.
    transposed: channel by channel instead of row by row.
    lag: columns of two entries that resemble each other although they are no neighbours (an image's row), 0 if none.
    grouped: blocks of zeros are told as such, which is faster where there are many.
    """

    zero: bool
    negative: int
    transposed: bool = False
    lag: int = 0
    grouped: bool = False

    def numbers(self, symbols: np.ndarray) -> np.ndarray:
        shifted = symbols - self.negative
        return np.where(symbols == 0, 0, shifted - (shifted <= 0)) if self.zero else shifted

    def symbols(self, numbers: np.ndarray) -> np.ndarray:
        shifted = numbers + self.negative
        return np.asarray(np.where(numbers == 0, 0, shifted + (numbers < 0)) if self.zero else shifted)


def grid_of(shape: tuple[int, ...], length: int) -> Grid:
    """How the model sees an array of this shape; one row if the shape is not that of the array."""
    if math.prod(shape) != length or len(shape) < 2:
        return Grid(1, length)
    kernel = math.prod(shape[2:])
    if kernel == 1 or kernel > MAX_KERNEL:
        return Grid(shape[0], math.prod(shape[1:]))
    return Grid(shape[0], shape[1], kernel, max(shape[-1], 2))


def quick_histogram(symbols: Symbols) -> Histogram:
    """As `histogram_of`, faster."""
    from tersenet.coding.lanes_kernels import count

    if symbols.alphabet > _COUNTED or "counted" in vars(symbols):
        return histogram_of(symbols)
    counts = np.zeros(symbols.alphabet, dtype=np.int64)
    count(symbols.values, counts)
    return from_counts(counts, symbols.alphabet)


def likely_negatives(symbols: Symbols, found: Histogram) -> list[int]:
    """How many symbols may lie below zero. Where weights were quantized, as many as makes the counts of opposite
    numbers most alike; if they are not alike even then, none may be right as well."""
    usual = _usual(symbols.alphabet)
    if symbols.alphabet <= 3:
        return [usual]
    if symbols.alphabet > _COUNTED:
        return [usual, 0]
    counts = np.bincount(found.used, weights=found.counts, minlength=symbols.alphabet)
    if symbols.zero:
        counts = counts[1:]

    def unlike(negative: int) -> float:
        below, above = counts[:negative][::-1], counts[negative + (not symbols.zero) :]
        both = min(len(below), len(above))
        return float(np.abs(below[:both] - above[:both]).sum() + below[both:].sum() + above[both:].sum())

    limit = counts.sum() / 4
    near = [negative for negative in range(usual - 2, usual + 3) if 0 <= negative < symbols.alphabet]
    middle = min(near, key=lambda negative: (unlike(negative), abs(negative - usual)))
    return [middle] if unlike(middle) < limit else list(dict.fromkeys((middle, usual, 0)))


def _usual(alphabet: int) -> int:
    return alphabet // 2 if alphabet > 2 else 0


def likely_lag(numbers: np.ndarray) -> int:
    """The distance at which signs, [rows, columns], agree more than at distances nearby; 0 if none stands out so much
    that it cannot be chance. Inputs that were an image resemble those one image row away.
    """
    signs = np.sign(numbers).astype(np.float32)
    columns = signs.shape[1]
    distances = min(columns // 2, _MAX_LAG)
    if distances < 8:
        return 0
    spectrum = np.fft.rfft(signs, 2 * (columns + distances + 1 >> 1), axis=1)  # far enough that nothing wraps around
    power = np.einsum("rf,rf->f", spectrum.real, spectrum.real) + np.einsum("rf,rf->f", spectrum.imag, spectrum.imag)
    agreement = np.fft.irfft(power)[:distances]
    standing_out = np.rint(2 * agreement[3:-3] - agreement[:-6] - agreement[6:])
    standing_out[:1] = 0  # a distance of 3 is compared with 0, where all agree
    lag = int(np.argmax(standing_out)) + 3
    pairs = int(np.count_nonzero(signs[:, lag:] * signs[:, :-lag]))
    return lag if standing_out[lag - 3] > _CHANCE * math.sqrt(6 * pairs + 1) else 0


def write_way(writer: BitWriter, way: Way, alphabet: int) -> None:
    unusual = way.negative != _usual(alphabet)
    writer.put(np.array([way.zero, way.transposed, way.lag > 0, unusual, way.grouped], dtype=np.uint8))
    if way.lag:
        writer.numbers(np.array([way.lag]))
    if unusual:
        writer.numbers(np.array([way.negative]))


def read_way(reader: BitReader, grid: Grid, alphabet: int) -> Way:
    zero, transposed, lagging, unusual, grouped = reader.take(5).astype(bool).tolist()
    lag = int(reader.numbers(1)[0]) if lagging else 0
    negative = int(reader.numbers(1)[0]) if unusual else _usual(alphabet)
    if lagging and (transposed or grid.kernel > 1 or not 2 <= lag < grid.columns):
        raise CodingError(f"a lag of {lag} in rows of {grid.columns}")
    if negative >= alphabet:
        raise CodingError(f"{negative} of {alphabet} symbols are negative")
    return Way(zero, negative, transposed, lag, grouped)
