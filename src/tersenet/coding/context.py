"""An adaptive coder for weights: each bit of an entry is predicted from the entries before it (see `context_kernel`).

Nothing is counted beforehand and no table is written; what the model knows of a tensor it learns on the way, when
reading as when writing. Long tensors are cut into chunks, each with a model of its own, which threads code at the same
time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np

from tersenet.coding.base import CodingError, Encoded, Plan, register
from tersenet.coding.bits import BitReader, BitWriter
from tersenet.coding.histogram import Histogram, from_counts, histogram_of, zero_split
from tersenet.core.code import Symbols

CHUNK = 1 << 20  # entries that share one model
MAX_KERNEL = 64  # entries of a convolution kernel; beyond, they are columns like others
_SAMPLE = 1 << 13  # entries on which the ways to write a tensor are compared
_SMALL = 1 << 16  # entries of convolutions up to which both directions are compared
_TINY = 1 << 12  # and of others
_SPARSE = 0.85  # share of zeros from which on many blocks have nothing else
_COUNTED = 1 << 12  # largest alphabet whose counts are looked at
_MAX_LAG = 1 << 12
_CHANCE = 5.5  # standard deviations; of hundreds of distances, one is 3 to 5 by chance

T = TypeVar("T")
S = TypeVar("S")


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


@dataclass(frozen=True)
class Mix:
    name: str = "mix"
    id: int = 7
    family: str = "mix"
    thorough: bool = True

    def plan(self, symbols: Symbols) -> Plan | None:
        return Plan(0, lambda: _write(self.name, symbols))

    def decode(self, payload: bytes, length: int, alphabet: int, shape: tuple[int, ...] = ()) -> np.ndarray:
        if length == 0:
            if payload:
                raise CodingError("an empty row of symbols has a payload")
            return np.zeros(0, dtype=np.int32)
        grid = grid_of(shape, length)
        reader = BitReader(payload)
        way = _read_way(reader, grid, alphabet)
        pieces = _pieces(_turned(grid, way))
        sizes = reader.numbers(len(pieces) - 1).tolist() if len(pieces) > 1 else []
        coded = _cut(reader.rest(), sizes)
        jobs = [(data, piece) for data, piece in zip(coded, pieces, strict=True)]
        parts = _in_parallel(lambda job: _decode(*job, way, alphabet), jobs)
        return _turned_back(np.concatenate(parts) if len(parts) > 1 else parts[0], grid, way)


def grid_of(shape: tuple[int, ...], length: int) -> Grid:
    """How the model sees an array of this shape; one row if the shape is not that of the array."""
    if math.prod(shape) != length or len(shape) < 2:
        return Grid(1, length)
    kernel = math.prod(shape[2:])
    if kernel == 1 or kernel > MAX_KERNEL:
        return Grid(shape[0], math.prod(shape[1:]))
    return Grid(shape[0], shape[1], kernel, max(shape[-1], 2))


def _write(name: str, symbols: Symbols) -> Encoded:
    if not len(symbols.values):
        return Encoded(name, b"", 0, 0, 0)
    grid = grid_of(symbols.shape, len(symbols.values))
    way, streams = _choose(symbols, grid)
    writer = BitWriter()
    _write_way(writer, way, symbols.alphabet)
    if len(streams) > 1:
        writer.numbers(np.array([len(stream) for stream in streams[:-1]]))
    head, coded = writer.bytes(), b"".join(streams)
    positions, values = zero_split(_histogram(symbols)) if symbols.zero else (0.0, 1.0)
    share = round(len(coded) * positions / (positions + values)) if positions + values else 0
    return Encoded(name, head + coded, len(head), share, len(coded) - share)


def _streams(values: np.ndarray, alphabet: int, grid: Grid, way: Way) -> list[bytes]:
    if way.transposed:
        values = np.ascontiguousarray(values.reshape(grid.rows, grid.channels, grid.kernel).transpose(1, 0, 2))
    flat, jobs, start = values.reshape(-1), [], 0
    for piece in _pieces(_turned(grid, way)):
        size = piece.rows * piece.columns
        jobs.append((flat[start : start + size], piece))
        start += size
    return _in_parallel(lambda job: _encode(*job, way, alphabet), jobs)


# --- choosing -------------------------------------------------------------------------------------------------------


def _choose(symbols: Symbols, grid: Grid) -> tuple[Way, list[bytes]]:
    """Step by step, the way that takes the fewest bytes for the first rows; and the whole, written in that way."""
    rows = min(grid.rows, max(1, _SAMPLE // grid.columns))
    sample = replace(grid, rows=rows) if grid.columns <= CHUNK else Grid(1, min(CHUNK, _SAMPLE))
    values = symbols.values[: sample.rows * sample.columns]

    @cache
    def written(way: Way) -> list[bytes]:
        return _streams(values, symbols.alphabet, sample, way)

    def best(ways: list[Way]) -> Way:
        return min(ways, key=lambda way: sum(map(len, written(way)))) if len(ways) > 1 else ways[0]

    found = _histogram(symbols)
    zeros = int(found.counts[0]) if symbols.zero and found.used[0] == 0 else 0
    grouped = len(symbols.values) > _TINY and zeros >= _SPARSE * len(symbols.values)
    way = best([Way(symbols.zero, negative, grouped=grouped) for negative in _negatives(symbols, found)])
    if grid.kernel == 1:
        way = replace(way, lag=likely_lag(way.numbers(values).reshape(sample.rows, sample.columns)))
    if min(grid.rows, grid.channels) > 1 and len(symbols.values) <= (_SMALL if grid.kernel > 1 else _TINY):
        way = best([way, replace(way, transposed=True, lag=0)])
    whole = len(values) == len(symbols.values)
    return way, written(way) if whole else _streams(symbols.values, symbols.alphabet, grid, way)


def _histogram(symbols: Symbols) -> Histogram:
    """As `histogram_of`, faster."""
    from tersenet.coding.context_kernel import count

    if symbols.alphabet > _COUNTED or "counted" in vars(symbols):
        return histogram_of(symbols)
    counts = np.zeros(symbols.alphabet, dtype=np.int64)
    count(symbols.values, counts)
    return from_counts(counts, symbols.alphabet)


def _negatives(symbols: Symbols, found: Histogram) -> list[int]:
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
    spectrum = np.fft.rfft(signs, 2 * columns, axis=1)
    agreement = np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=0))[: min(columns // 2, _MAX_LAG)]
    if len(agreement) < 8:
        return 0
    standing_out = np.rint(2 * agreement[3:-3] - agreement[:-6] - agreement[6:])
    standing_out[:1] = 0  # a distance of 3 is compared with 0, where all agree
    lag = int(np.argmax(standing_out)) + 3
    pairs = int(np.count_nonzero(signs[:, lag:] * signs[:, :-lag]))
    return lag if standing_out[lag - 3] > _CHANCE * math.sqrt(6 * pairs + 1) else 0


# --- the bytes ------------------------------------------------------------------------------------------------------


def _write_way(writer: BitWriter, way: Way, alphabet: int) -> None:
    unusual = way.negative != _usual(alphabet)
    writer.put(np.array([way.zero, way.transposed, way.lag > 0, unusual, way.grouped], dtype=np.uint8))
    if way.lag:
        writer.numbers(np.array([way.lag]))
    if unusual:
        writer.numbers(np.array([way.negative]))


def _read_way(reader: BitReader, grid: Grid, alphabet: int) -> Way:
    zero, transposed, lagging, unusual, grouped = reader.take(5).astype(bool).tolist()
    lag = int(reader.numbers(1)[0]) if lagging else 0
    negative = int(reader.numbers(1)[0]) if unusual else _usual(alphabet)
    if lagging and (transposed or grid.kernel > 1 or not 2 <= lag < grid.columns):
        raise CodingError(f"a lag of {lag} in rows of {grid.columns}")
    if negative >= alphabet:
        raise CodingError(f"{negative} of {alphabet} symbols are negative")
    return Way(zero, negative, transposed, lag, grouped)


def _turned(grid: Grid, way: Way) -> Grid:
    return replace(grid, rows=grid.channels, channels=grid.rows) if way.transposed else grid


def _turned_back(symbols: np.ndarray, grid: Grid, way: Way) -> np.ndarray:
    if not way.transposed:
        return symbols
    return symbols.reshape(grid.channels, grid.rows, grid.kernel).transpose(1, 0, 2).reshape(-1)


def _pieces(grid: Grid) -> list[Grid]:
    """Whole rows, as many as fit into a chunk; pieces of the flat array where not even one does."""
    if grid.columns > CHUNK:
        whole, rest = divmod(grid.rows * grid.columns, CHUNK)
        return [Grid(1, CHUNK)] * whole + ([Grid(1, rest)] if rest else [])
    at_once = CHUNK // grid.columns
    whole, rest = divmod(grid.rows, at_once)
    return [replace(grid, rows=at_once)] * whole + ([replace(grid, rows=rest)] if rest else [])


def _cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size
    if start > len(data):
        raise CodingError("the payload ends too early")
    yield data[start:]


def _in_parallel(action: Callable[[S], T], jobs: list[S]) -> list[T]:
    if len(jobs) == 1:
        return [action(jobs[0])]
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as threads:
        return list(threads.map(action, jobs))


def _encode(symbols: np.ndarray, piece: Grid, way: Way, alphabet: int) -> bytes:
    from tersenet.coding.context_kernel import code_cells, lay_out

    cells, scan = _cells(piece, way, alphabet)
    lay_out(symbols, way.zero, way.negative, scan, cells)
    room = len(symbols) * scan.depth // 4 + 64
    while True:
        data = np.zeros(room, dtype=np.uint8)
        size = code_cells(cells, scan, data, False)
        if size <= room:
            return data[:size].tobytes()
        room *= 4


def _decode(data: bytes, piece: Grid, way: Way, alphabet: int) -> np.ndarray:
    from tersenet.coding.context_kernel import code_cells, take_up

    cells, scan = _cells(piece, way, alphabet)
    if code_cells(cells, scan, np.frombuffer(bytearray(data), dtype=np.uint8), True) < 0:
        raise CodingError("the stream does not end where its symbols do")
    symbols = np.empty(piece.rows * piece.columns, dtype=np.int32)
    if not take_up(cells, scan, way.zero, way.negative, alphabet, symbols):
        raise CodingError(f"a symbol lies outside [0, {alphabet})")
    return symbols


def _cells(piece: Grid, way: Way, alphabet: int):  # type: ignore[no-untyped-def]
    """Zeros, int32: rows with a margin around for what lies outside; and how to scan it."""
    from tersenet.coding.context_model import BLOCK, MARGIN, Scan

    lag = way.lag if way.lag < piece.columns else 0
    far, near, third = (piece.kernel, piece.width, piece.width - 1) if piece.kernel > 1 else (lag, lag + 1, lag - 1)
    left = max(far, near, MARGIN) + 1
    block = piece.kernel if piece.kernel > 1 else BLOCK
    stride = left + piece.columns + MARGIN
    depth = max(way.negative, alphabet - 1 - way.negative, 1).bit_length()
    return np.zeros((piece.rows + MARGIN) * stride, dtype=np.int32), Scan(
        piece.rows, piece.channels, piece.kernel, far, near, third, lag, block, -(-piece.columns // block),
        int(way.grouped), left, stride, int(way.negative > 0), depth,
    )  # fmt: skip


register(Mix())
