"""An adaptive coder for weights: each bit of an entry is predicted from the entries before it (see `context_kernel`).

Nothing is counted beforehand and no table is written; what the model knows of a tensor it learns on the way, when
reading as when writing. Long tensors are cut into chunks, each with a model of its own, which threads code at the same
time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np

from tersenet.coding.base import CodingError, Encoded, Plan, register
from tersenet.coding.bits import BitReader, BitWriter
from tersenet.coding.context_way import (
    Grid,
    Way,
    grid_of,
    likely_lag,
    likely_negatives,
    quick_histogram,
    read_way,
    write_way,
)
from tersenet.coding.histogram import Histogram, zero_split
from tersenet.core.code import Symbols

CHUNK = 1 << 20  # entries that share one model
_SAMPLE = 1 << 13  # entries on which the ways to write a tensor are compared
_SMALL = 1 << 16  # entries of convolutions up to which both directions are compared
_TINY = 1 << 12  # and of others
_SPARSE = 0.85  # share of zeros from which on many blocks have nothing else

T = TypeVar("T")
S = TypeVar("S")


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
        way = read_way(reader, grid, alphabet)
        pieces = _pieces(_turned(grid, way))
        sizes = reader.numbers(len(pieces) - 1).tolist() if len(pieces) > 1 else []
        coded = _cut(reader.rest(), sizes)
        jobs = [(data, piece) for data, piece in zip(coded, pieces, strict=True)]
        parts = _in_parallel(lambda job: _decode(*job, way, alphabet), jobs)
        return _turned_back(np.concatenate(parts) if len(parts) > 1 else parts[0], grid, way)


def _write(name: str, symbols: Symbols) -> Encoded:
    if not len(symbols.values):
        return Encoded(name, b"", 0, 0, 0)
    grid = grid_of(symbols.shape, len(symbols.values))
    found = quick_histogram(symbols)
    way, streams = _choose(symbols, found, grid)
    writer = BitWriter()
    write_way(writer, way, symbols.alphabet)
    if len(streams) > 1:
        writer.numbers(np.array([len(stream) for stream in streams[:-1]]))
    head, coded = writer.bytes(), b"".join(streams)
    positions, values = zero_split(found) if symbols.zero else (0.0, 1.0)
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


def _choose(symbols: Symbols, found: Histogram, grid: Grid) -> tuple[Way, list[bytes]]:
    """Step by step, the way that takes the fewest bytes for the first rows; and the whole, written in that way."""
    rows = min(grid.rows, max(1, _SAMPLE // grid.columns))
    sample = replace(grid, rows=rows) if grid.columns <= CHUNK else Grid(1, min(CHUNK, _SAMPLE))
    values = symbols.values[: sample.rows * sample.columns]

    @cache
    def written(way: Way) -> list[bytes]:
        return _streams(values, symbols.alphabet, sample, way)

    def best(ways: list[Way]) -> Way:
        return min(ways, key=lambda way: sum(map(len, written(way)))) if len(ways) > 1 else ways[0]

    zeros = int(found.counts[0]) if symbols.zero and found.used[0] == 0 else 0
    grouped = len(symbols.values) > _TINY and zeros >= _SPARSE * len(symbols.values)
    way = best([Way(symbols.zero, negative, grouped=grouped) for negative in likely_negatives(symbols, found)])
    if grid.kernel == 1:
        way = replace(way, lag=likely_lag(way.numbers(values).reshape(sample.rows, sample.columns)))
    if min(grid.rows, grid.channels) > 1 and len(symbols.values) <= (_SMALL if grid.kernel > 1 else _TINY):
        way = best([way, replace(way, transposed=True, lag=0)])
    whole = len(values) == len(symbols.values)
    return way, written(way) if whole else _streams(symbols.values, symbols.alphabet, grid, way)


# --- the bytes ------------------------------------------------------------------------------------------------------


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
