"""From a `Code` to its entry and back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tersenet.artifact.entry import MAX_ALPHABET, Account, Entry, Stream
from tersenet.artifact.tables import decode_table, encode_table
from tersenet.coding import Encoded, decode, encode, entropy_bytes
from tersenet.coding.lanes import Map
from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError


def encode_code(name: str, code: Code, coder: str) -> Entry:
    """Code all streams and tables of one tensor. Raises ArtifactError, naming it, if a file cannot hold it."""
    try:
        return Entry(
            name=name,
            form=code.form,
            dtype=code.dtype,
            shape=tuple(int(axis) for axis in code.shape),
            options={option: int(value) for option, value in code.options.items()},
            streams=tuple(_encode_stream(key, _shaped(s, code.shape), coder) for key, s in code.streams.items()),
            tables=tuple(encode_table(key, np.asarray(table), coder) for key, table in code.tables.items()),
        )
    except ArtifactError as error:
        raise ArtifactError(f"tensor '{name}' cannot be stored: {error}") from None


def decode_entry(entry: Entry, each: Map = map) -> Code:
    """The tensor's code. `each`: `map`, or that of a pool of threads.

    Raises ArtifactError, naming the tensor, if its coded bytes are malformed.
    """
    try:
        return Code(
            form=entry.form,
            shape=entry.shape,
            streams={stream.name: decode_stream(stream, entry.shape) for stream in entry.streams},
            tables={table.name: decode_table(table, each) for table in entry.tables},
            options=dict(entry.options),
            dtype=entry.dtype,
        )
    except ArtifactError as error:
        raise ArtifactError(f"tensor '{entry.name}': {error}") from None


def decode_stream(stream: Stream, shape: tuple[int, ...]) -> Symbols:
    """`shape`: of the weight. It is the stream's, if this has as many symbols as the weight has entries."""
    own = shape if math.prod(shape) == stream.length else ()
    try:
        values = decode(stream.coder, bytes(stream.payload), stream.length, stream.alphabet, own)
        return Symbols(values, stream.alphabet, stream.zero, own)
    except ValueError as error:
        raise ArtifactError(f"malformed: stream '{stream.name}' cannot be decoded: {error}") from None


def account(encoded: Encoded, symbols: Symbols) -> Account:
    return Account(encoded.value_bytes, encoded.position_bytes, encoded.table_bytes, entropy_bytes(symbols))


def _shaped(symbols: Symbols, shape: tuple[int, ...]) -> Symbols:
    return replace(symbols, shape=tuple(shape)) if math.prod(shape) == len(symbols.values) else symbols


def _encode_stream(name: str, symbols: Symbols, coder: str) -> Stream:
    if symbols.alphabet > MAX_ALPHABET:
        raise ArtifactError(f"stream '{name}' has an alphabet of {symbols.alphabet}, more than {MAX_ALPHABET}")
    encoded = encode(symbols, coder)
    return Stream(
        name, symbols.zero, symbols.values.size, symbols.alphabet, encoded.coder, encoded.payload,
        account(encoded, symbols),
    )  # fmt: skip
