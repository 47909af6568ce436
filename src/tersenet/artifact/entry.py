"""One tensor as it stands in the file: what the index says of it, with its coded bytes still coded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tersenet.core.errors import ArtifactError

DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
"""What a table may be made of. In the file all of them are little-endian."""

MAX_AXES = 15
MAX_PARTS = 32
"""Streams, tables and options of one tensor together."""

MAX_ALPHABET = 2**31
DEFAULT_MAX_BYTES = 2**34
FREE_BYTES = 2**26
BYTES_PER_BYTE = 2**17
"""A file of n bytes may unfold to at most FREE_BYTES + n · BYTES_PER_BYTE: 99.99 % of zeros need a twentieth of it."""


@dataclass(frozen=True)
class Account:
    """What the bytes of a payload are for, and what an ideal coder would have needed, in bytes."""

    values: int
    positions: int
    tables: int
    entropy: float


@dataclass(frozen=True)
class Stream:
    """`length` symbols in [0, alphabet), coded. `account` is known where the stream was just coded."""

    name: str
    zero: bool
    length: int
    alphabet: int
    coder: str
    payload: bytes | memoryview
    account: Account | None = None


@dataclass(frozen=True)
class Plane:
    """The k-th byte of every number of a table, coded; as it is where `coder` is empty.

    frequency_bytes: what of the payload is the coder's own table; known where the plane was just coded.
    """

    coder: str
    payload: bytes | memoryview
    frequency_bytes: int | None = None


@dataclass(frozen=True)
class Table:
    """Numbers of one dtype: one plane with whole numbers, or (`packed`) as many planes as a number has bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    packed: bool
    planes: tuple[Plane, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor. `index_bytes` is the length of its record in the index."""

    name: str
    form: str
    dtype: str
    shape: tuple[int, ...]
    options: dict[str, int]
    streams: tuple[Stream, ...]
    tables: tuple[Table, ...]
    index_bytes: int = 0

    @property
    def payloads(self) -> list[bytes | memoryview]:
        """All coded bytes in the order of the file."""
        return [stream.payload for stream in self.streams] + [
            plane.payload for table in self.tables for plane in table.planes
        ]


def volume(shape: Iterable[int]) -> int:
    """Elements of an array, an empty axis counted as one, so that (0, 2^60) is as large as it is awkward."""
    return math.prod(max(axis, 1) for axis in shape)


def check_volume(unfolded: int, file_bytes: int, max_bytes: int | None) -> None:
    """Raises ArtifactError if `unfolded` bytes are more than a file of this length may hold, or than `max_bytes`."""
    allowed = FREE_BYTES + file_bytes * BYTES_PER_BYTE
    if unfolded > allowed:
        raise ArtifactError(
            f"malformed: {file_bytes} bytes that unfold to {unfolded}, where the format allows {allowed}"
        )
    if max_bytes is not None and unfolded > max_bytes:
        raise ArtifactError(f"unfolds to {unfolded} bytes; to read it nevertheless, give a max_bytes over {max_bytes}")


def unfolded_bytes(entry: Entry) -> int:
    """Memory for decoding an entry: eight bytes an element of the weight, four a symbol, tables as they are."""
    streams = sum(4 * (stream.length + stream.alphabet) for stream in entry.streams)
    tables = sum(DTYPES[table.dtype].itemsize * volume(table.shape) for table in entry.tables)
    return 8 * volume(entry.shape) + streams + tables
