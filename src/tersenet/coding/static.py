"""Coders that measure how often each symbol occurs, write that down, then code every symbol at its own price.

Two choices compose: a layout (`direct`, `gaps`) says which rows of integers are written, an entropy code (`huffman`,
`ans`, `range`) how. The payload is one header of bits (the layout's numbers, then a table per row), then the streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from tersenet.coding.base import CodingError, Encoded, Plan
from tersenet.coding.bits import BitReader, BitWriter
from tersenet.coding.histogram import Histogram
from tersenet.core.code import Symbols

MAX_USED = 1 << 20  # distinct symbols an entropy code takes; beyond it the table outweighs any gain


class Model(Protocol):
    """The prices of the symbols in one row. `used`: the symbols that occur, ascending, int32 [m]."""

    @property
    def used(self) -> np.ndarray: ...

    def bits(self, counts: np.ndarray) -> float:
        """Length of the stream if symbol `used[i]` occurs `counts[i]` times."""
        ...

    def write(self, writer: BitWriter) -> None: ...


M = TypeVar("M", bound=Model)


class EntropyCode(Protocol[M]):
    """Symbols are given to `pack` and by `unpack` as indices into `model.used`."""

    @property
    def name(self) -> str: ...

    @property
    def exact(self) -> bool:
        """A stream has exactly the bits that its models say; otherwise about as many."""
        ...

    def fit(self, found: Histogram) -> M: ...

    def read(self, reader: BitReader, length: int, alphabet: int) -> M: ...

    def pack(self, rows: Sequence[tuple[np.ndarray, M]]) -> bytes: ...

    def unpack(self, data: bytes, rows: Sequence[tuple[int, M]]) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Arrangement:
    """Symbols as a layout would write them: what each row contains, and on demand the rows themselves.

    header: the layout's own numbers, written before the tables.
    split: (bits for positions, bits for values), given the bits of each row's stream.
    """

    histograms: tuple[Histogram, ...]
    rows: Callable[[], tuple[np.ndarray, ...]]
    header: Callable[[BitWriter], None]
    split: Callable[[Sequence[float]], tuple[float, float]]


class Layout(Protocol):
    @property
    def name(self) -> str: ...

    def arrangements(self, symbols: Symbols) -> Iterable[Arrangement]:
        """All ways worth pricing; none where the layout makes no sense."""
        ...

    def shapes(self, reader: BitReader, length: int, alphabet: int) -> list[tuple[int, int]]:
        """Reads the header: length and alphabet of each row."""
        ...

    def join(self, rows: list[np.ndarray], length: int, alphabet: int) -> np.ndarray: ...


@dataclass(frozen=True)
class StaticCoder(Generic[M]):
    """`layout` × `code`."""

    id: int
    layout: Layout
    code: EntropyCode[M]
    thorough: bool = False

    @property
    def name(self) -> str:
        return f"{self.code.name}_{self.layout.name}"

    @property
    def family(self) -> str:
        return self.code.name

    def plan(self, symbols: Symbols) -> Plan | None:
        if not len(symbols.values):
            return Plan(0, lambda: Encoded(self.name, b"", 0, 0, 0))
        priced = [
            _Priced(self, arrangement, tuple(self.code.fit(found) for found in arrangement.histograms))
            for arrangement in self.layout.arrangements(symbols)
            if all(len(found.used) <= MAX_USED for found in arrangement.histograms)
        ]
        if not priced:
            return None
        best = min(priced, key=_Priced.size)
        return Plan(best.least(), best.write, best.size())

    def decode(self, payload: bytes, length: int, alphabet: int, shape: tuple[int, ...] = ()) -> np.ndarray:
        if length == 0:
            if payload:
                raise CodingError("an empty row of symbols has a payload")
            return np.zeros(0, dtype=np.int32)
        reader = BitReader(payload)
        shapes = self.layout.shapes(reader, length, alphabet)
        models = [self.code.read(reader, *shape) if shape[0] else None for shape in shapes]
        coded = [(shape[0], model) for shape, model in zip(shapes, models, strict=True) if model is not None]
        rows = self.code.unpack(reader.rest(), coded)
        symbols = [_to_symbols(row, model.used) for row, (_, model) in zip(rows, coded, strict=True)]
        return self.layout.join(symbols, length, alphabet)


@dataclass(frozen=True)
class _Priced(Generic[M]):
    coder: StaticCoder[M]
    arrangement: Arrangement
    models: tuple[M, ...]

    def tables(self) -> BitWriter:
        writer = BitWriter()
        self.arrangement.header(writer)
        for model in self.models:
            model.write(writer)
        return writer

    def stream_bits(self) -> list[float]:
        return [m.bits(h.counts) for m, h in zip(self.models, self.arrangement.histograms, strict=True)]

    def size(self) -> float:
        """Expected bytes."""
        return (self.tables().length + 7) // 8 + sum(self.stream_bits()) / 8

    def least(self) -> int:
        stream = math.ceil(sum(self.stream_bits()) / 8) if self.coder.code.exact else 0
        return (self.tables().length + 7) // 8 + stream

    def write(self) -> Encoded:
        head = self.tables().bytes()
        rows = zip(self.arrangement.rows(), self.models, strict=True)
        stream = self.coder.code.pack([(_to_indices(row, model.used), model) for row, model in rows])
        positions = _share(len(stream), *self.arrangement.split(self.stream_bits()))
        return Encoded(self.coder.name, head + stream, len(head), positions, len(stream) - positions)


def write_used(writer: BitWriter, used: np.ndarray, alphabet: int) -> None:
    """Which symbols occur: one bit if all do, else how many, and the distances between them."""
    writer.number(int(len(used) == alphabet), 1)
    if len(used) < alphabet:
        writer.numbers(np.array([len(used) - 1]))
        writer.numbers(np.diff(used, prepend=-1) - 1)


def read_used(reader: BitReader, length: int, alphabet: int) -> np.ndarray:
    """int32 [m], ascending, in [0, alphabet), with 1 ≤ m ≤ length: every symbol listed occurs at least once."""
    count = alphabet if reader.number(1) else int(reader.numbers(1)[0]) + 1
    if not 0 < count <= min(length, alphabet, MAX_USED):
        raise CodingError(f"a table lists {count} of {alphabet} symbols for a row of {length}")
    if count == alphabet:
        return np.arange(alphabet, dtype=np.int32)
    used = np.cumsum(reader.numbers(count) + 1) - 1
    if used[-1] >= alphabet:
        raise CodingError(f"a table lists a symbol outside [0, {alphabet})")
    return used.astype(np.int32)


def _is_dense(used: np.ndarray) -> bool:
    return int(used[-1]) == len(used) - 1


def _to_indices(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Symbols → indices into `used`, by a table where one is affordable."""
    if _is_dense(used):
        return values
    if int(used[-1]) <= max(1 << 16, 4 * len(values)):
        table = np.zeros(int(used[-1]) + 1, dtype=np.int32)
        table[used] = np.arange(len(used), dtype=np.int32)
        return np.asarray(table[values])
    return np.searchsorted(used, values).astype(np.int32)


def _to_symbols(indices: np.ndarray, used: np.ndarray) -> np.ndarray:
    return indices if _is_dense(used) else np.asarray(used[indices])


def _share(total: int, positions: float, values: float) -> int:
    """The part of `total` bytes that goes to positions."""
    return round(total * positions / (positions + values)) if positions + values > 0 else 0
