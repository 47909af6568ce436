"""Interleaved asymmetric numeral systems for bytes: hundreds of megabytes a second on one core, chunks in parallel.

Eight coders take turns, as in Giesen, "Interleaved entropy coders" (arXiv:1402.3392), so that a processor works on
eight symbols at once. Each chunk has frequencies of its own and can be coded and decoded alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tersenet.coding.base import CodingError, Encoded, Plan, register
from tersenet.coding.histogram import entropy_bytes
from tersenet.core.code import Symbols

NAME = "lanes"
CHUNK = 1 << 18
"""Symbols that share a table."""

MOST = 256
"""Largest alphabet."""

_LANES, _BITS = 8, 12  # as in the kernels
_SIZE = np.dtype("<u4")
_WORD = np.dtype("<u2")

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""`map`, or that of a pool of threads."""


def encode_bytes(values: np.ndarray, each: Map = map) -> tuple[bytes, int]:
    """uint8 [n] → the payload, and how many bytes of it are tables and lengths.

    each: applies a function to many chunks, in order.
    """
    coded = list(each(_encode_chunk, (values[begin : begin + CHUNK] for begin in range(0, len(values), CHUNK))))
    sizes = np.array([len(chunk) for chunk, _ in coded], _SIZE).tobytes()
    return b"".join([sizes, *(chunk for chunk, _ in coded)]), len(sizes) + sum(table for _, table in coded)


def decode_bytes(payload: bytes | memoryview, length: int, alphabet: int = MOST, each: Map = map) -> np.ndarray:
    """uint8 [length], each below `alphabet`. Raises CodingError for what `encode_bytes` does not write."""
    chunks = math.ceil(length / CHUNK)
    if len(payload) < chunks * _least(1):
        raise CodingError("the payload ends too early")
    sizes = np.frombuffer(payload, _SIZE, chunks)
    ends = _SIZE.itemsize * chunks + np.cumsum(sizes, dtype=np.int64)
    if (int(ends[-1]) if chunks else 0) != len(payload):
        raise CodingError(f"the chunks take another number of bytes than the {len(payload)} that are there")
    found = np.empty(length, np.uint8)

    def decode(number: int) -> None:
        begin = number * CHUNK
        part = payload[int(ends[number]) - int(sizes[number]) : int(ends[number])]
        _decode_chunk(part, found[begin : begin + CHUNK], alphabet)

    for _ in each(decode, range(chunks)):
        pass
    return found


def _least(used: int) -> int:
    """Bytes that a chunk with so many different symbols takes at least."""
    return 1 + 3 * used + _SIZE.itemsize * _LANES


def _encode_chunk(values: np.ndarray) -> tuple[bytes, int]:
    from tersenet.coding.lanes_kernels import count, frequencies, write

    counts = np.zeros(MOST, np.int64)
    count(values, counts)
    found = frequencies(counts)
    used = np.flatnonzero(found)
    states, words = np.empty(_LANES, np.uint32), np.empty(len(values) + 1, np.uint16)
    begin = write(values, found, states, words)
    table = bytes([len(used) - 1]) + used.astype(np.uint8).tobytes() + (found[used] - 1).astype(_WORD).tobytes()
    return table + states.astype(_SIZE).tobytes() + words[begin:].astype(_WORD).tobytes(), len(table)


def _decode_chunk(data: bytes | memoryview, out: np.ndarray, alphabet: int) -> None:
    from tersenet.coding.lanes_kernels import fill, read

    m = data[0] + 1 if len(data) else 1
    if len(data) < _least(m) or (len(data) - _least(m)) % 2:
        raise CodingError("a chunk has not the length that its table says")
    used = np.frombuffer(data, np.uint8, m, 1)
    found = np.frombuffer(data, _WORD, m, 1 + m).astype(np.uint32) + 1
    slots = np.empty(1 << _BITS, np.uint32)
    if used[-1] >= alphabet or not fill(used, found, slots):
        raise CodingError("the frequencies of a chunk make no table")
    states = np.frombuffer(data, _SIZE, _LANES, 1 + 3 * m).astype(np.uint32)
    coded = np.frombuffer(data, _WORD, offset=_least(m))
    words = np.zeros(len(coded) + _LANES, np.uint16)
    words[: len(coded)] = coded
    if states.min() < 1 << 16 or not read(states, words, slots, out):
        raise CodingError("the stream of a chunk holds more or less than its symbols")


@dataclass(frozen=True)
class Lanes:
    """`thorough`, since its tables are larger than those of others that are tried: it is for speed on large tensors,
    where it is asked for by name."""

    name: str = NAME
    id: int = 8
    family: str = NAME
    thorough: bool = True

    def plan(self, symbols: Symbols) -> Plan | None:
        if symbols.alphabet > MOST:
            return None
        chunks = math.ceil(len(symbols.values) / CHUNK)
        least = chunks * (_SIZE.itemsize + _least(1))
        return Plan(least, lambda: _encoded(symbols), least + entropy_bytes(symbols))

    def decode(self, payload: bytes, length: int, alphabet: int, shape: tuple[int, ...] = ()) -> np.ndarray:
        return decode_bytes(payload, length, alphabet).astype(np.int32)


def _encoded(symbols: Symbols) -> Encoded:
    payload, tables = encode_bytes(symbols.values.astype(np.uint8))
    return Encoded(NAME, payload, tables, 0, len(payload) - tables)


register(Lanes())
