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
from typing import TypeVar

import numpy as np

from tersenet.coding.base import CodingError, Encoded, Plan, register
from tersenet.coding.bits import BitReader, BitWriter
from tersenet.coding.histogram import histogram, zero_split
from tersenet.core.code import Symbols

CHUNK = 1 << 20  # entries that share one model
MAX_KERNEL = 64  # entries of a convolution kernel; beyond, they are columns like others
_SAMPLE = 1 << 14  # entries on which the ways to write a tensor are compared
_SMALL = 1 << 16  # entries up to which both directions are tried in full
_MAX_LAG = 1 << 12

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
    """

    zero: bool
    negative: int
    transposed: bool = False
    lag: int = 0

    def numbers(self, symbols: np.ndarray) -> np.ndarray:
        shifted = symbols - self.negative
        return np.where(symbols == 0, 0, shifted - (shifted <= 0)) if self.zero else shifted

    def symbols(self, numbers: np.ndarray, alphabet: int) -> np.ndarray:
        if numbers.min() < -self.negative or numbers.max() >= alphabet - self.negative:
            raise CodingError(f"a symbol lies outside [0, {alphabet})")
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
        numbers = np.concatenate(_in_parallel(lambda job: _decode(*job, way, alphabet), jobs))
        return _turned_back(way.symbols(numbers, alphabet), grid, way).astype(np.int32)


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
    way = _choose(symbols, grid)
    streams = _streams(symbols.values, symbols.alphabet, grid, way)
    writer = BitWriter()
    _write_way(writer, way, symbols.alphabet)
    if len(streams) > 1:
        writer.numbers(np.array([len(stream) for stream in streams[:-1]]))
    head, coded = writer.bytes(), b"".join(streams)
    positions, values = zero_split(histogram(symbols.values, symbols.alphabet)) if symbols.zero else (0.0, 1.0)
    share = round(len(coded) * positions / (positions + values)) if positions + values else 0
    return Encoded(name, head + coded, len(head), share, len(coded) - share)


def _streams(symbols: np.ndarray, alphabet: int, grid: Grid, way: Way) -> list[bytes]:
    numbers = way.numbers(symbols).reshape(grid.rows, grid.channels, grid.kernel)
    if way.transposed:
        numbers = numbers.transpose(1, 0, 2)
    flat, jobs, start = np.ascontiguousarray(numbers).reshape(-1), [], 0
    for piece in _pieces(_turned(grid, way)):
        size = piece.rows * piece.columns
        jobs.append((flat[start : start + size], piece))
        start += size
    return _in_parallel(lambda job: _encode(*job, way, alphabet), jobs)


# --- choosing -------------------------------------------------------------------------------------------------------


def _choose(symbols: Symbols, grid: Grid) -> Way:
    """Step by step, the way that takes the fewest bytes for the first rows."""
    rows = min(grid.rows, max(1, _SAMPLE // grid.columns))
    sample = replace(grid, rows=rows) if grid.columns <= CHUNK else Grid(1, min(CHUNK, _SAMPLE))
    values = symbols.values[: sample.rows * sample.columns]

    def best(ways: list[Way], values: np.ndarray = values, grid: Grid = sample) -> Way:
        if len(ways) == 1:
            return ways[0]
        return min(ways, key=lambda way: sum(map(len, _streams(values, symbols.alphabet, grid, way))))

    way = best([Way(symbols.zero, negative) for negative in _negatives(symbols.alphabet)])
    if grid.kernel == 1 and (lag := likely_lag(way.numbers(values).reshape(sample.rows, sample.columns))):
        way = best([way, replace(way, lag=lag)])
    if min(grid.rows, grid.channels) > 1 and len(symbols.values) <= _SMALL:
        way = best([way, replace(way, transposed=True, lag=0)], symbols.values, grid)
    return way


def _negatives(alphabet: int) -> list[int]:
    """How many symbols may lie below zero: about half where weights were quantized, none in a mask."""
    half = _usual(alphabet)
    if alphabet <= 3:
        return [half]
    if alphabet > 64:
        return [half, 0]
    return [half, *(n for n in (half - 1, half + 1, half - 2, half + 2, 0) if 0 <= n < alphabet)]


def _usual(alphabet: int) -> int:
    return alphabet // 2 if alphabet > 2 else 0


def likely_lag(numbers: np.ndarray) -> int:
    """The distance at which signs, [rows, columns], agree most in comparison with distances nearby; 0 if none is left.

    Inputs that were an image resemble those one image row away.
    """
    signs = np.sign(numbers).astype(np.float64)
    columns = signs.shape[1]
    spectrum = np.fft.rfft(signs, 2 * columns, axis=1)
    agreement = np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=0))[: min(columns // 2, _MAX_LAG)]
    if len(agreement) < 8:
        return 0
    standing_out = np.rint(2 * agreement[3:-3] - agreement[:-6] - agreement[6:])
    standing_out[:1] = 0  # a distance of 3 is compared with 0, where all agree
    best = int(np.argmax(standing_out))
    return best + 3 if standing_out[best] > 0 else 0


# --- the bytes ------------------------------------------------------------------------------------------------------


def _write_way(writer: BitWriter, way: Way, alphabet: int) -> None:
    unusual = way.negative != _usual(alphabet)
    writer.put(np.array([way.zero, way.transposed, way.lag > 0, unusual], dtype=np.uint8))
    if way.lag:
        writer.numbers(np.array([way.lag]))
    if unusual:
        writer.numbers(np.array([way.negative]))


def _read_way(reader: BitReader, grid: Grid, alphabet: int) -> Way:
    zero, transposed, lagging, unusual = reader.take(4).astype(bool).tolist()
    lag = int(reader.numbers(1)[0]) if lagging else 0
    negative = int(reader.numbers(1)[0]) if unusual else _usual(alphabet)
    if lagging and (transposed or grid.kernel > 1 or not 2 <= lag < grid.columns):
        raise CodingError(f"a lag of {lag} in rows of {grid.columns}")
    if negative >= alphabet:
        raise CodingError(f"{negative} of {alphabet} symbols are negative")
    return Way(zero, negative, transposed, lag)


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


def _encode(numbers: np.ndarray, piece: Grid, way: Way, alphabet: int) -> bytes:
    from tersenet.coding.context_kernel import code_cells

    cells, scan = _cells(numbers, piece, way, alphabet)
    room = len(numbers) * scan.depth // 4 + 64
    while True:
        data = np.zeros(room, dtype=np.uint8)
        size = code_cells(cells.reshape(-1), scan, data, False)
        if size <= room:
            return data[:size].tobytes()
        room *= 4


def _decode(data: bytes, piece: Grid, way: Way, alphabet: int) -> np.ndarray:
    from tersenet.coding.context_kernel import MARGIN, code_cells

    cells, scan = _cells(None, piece, way, alphabet)
    size = code_cells(cells.reshape(-1), scan, np.frombuffer(bytearray(data), dtype=np.uint8), True)
    if size < 0:
        raise CodingError("the stream does not end where its symbols do")
    return np.asarray(cells[MARGIN:, scan.left : scan.left + piece.columns].reshape(-1))


def _cells(numbers: np.ndarray | None, piece: Grid, way: Way, alphabet: int):  # type: ignore[no-untyped-def]
    """int32 [rows + margin, left + columns + margin] with zeros around, and how to scan it."""
    from tersenet.coding.context_kernel import MARGIN, Scan

    lag = way.lag if way.lag < piece.columns else 0
    left = max(lag, piece.kernel, piece.width, MARGIN) + 1
    cells = np.zeros((piece.rows + MARGIN, left + piece.columns + MARGIN), dtype=np.int32)
    if numbers is not None:
        cells[MARGIN:, left : left + piece.columns] = numbers.reshape(piece.rows, piece.columns)
    depth = max(way.negative, alphabet - 1 - way.negative, 1).bit_length()
    return cells, Scan(
        piece.rows, piece.channels, piece.kernel, piece.width, lag, left, cells.shape[1], int(way.negative > 0), depth
    )


register(Mix())
