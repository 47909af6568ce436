"""Where each byte of a file went. Rows and header sum exactly to the file's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tersenet.artifact.entry import Account, Entry, Plane, Stream, Table
from tersenet.artifact.tables import BYTE, decode_plane
from tersenet.artifact.tensor import account, decode_stream
from tersenet.coding import encode
from tersenet.core.code import Symbols

VALUES = "values"
"""A table of this name holds the weights themselves; others are codebooks and scales."""


@dataclass(frozen=True)
class LedgerRow:
    """Bytes of one tensor.

    coders: stream → coder. A table that was split by bytes stands here too, with a coder for each byte of a number.
    values, positions: what says what the weights are, and where those are that are not zero.
    tables: codebooks, frequency tables, code lengths.
    header: its record in the index (shape, coders, lengths); names and forms are in `Ledger.header_bytes`.
    entropy_bytes: zeroth-order empirical entropy of its streams, which excludes tables.
    """

    name: str
    shape: tuple[int, ...]
    form: str
    coders: dict[str, str]
    values: int
    positions: int
    tables: int
    header: int
    entropy_bytes: float

    @property
    def bytes(self) -> int:
        return self.values + self.positions + self.tables + self.header


@dataclass(frozen=True)
class Ledger:
    """header_bytes: what belongs to no tensor (magic, lengths, recipe, names, digests). total: length of the file."""

    header_bytes: int
    rows: tuple[LedgerRow, ...]
    total: int

    @property
    def overhead(self) -> int:
        """All that is neither values nor positions nor tables."""
        return self.header_bytes + sum(row.header for row in self.rows)


def ledger(entries: Sequence[Entry], total: int) -> Ledger:
    """`total`: length of the file that holds `entries`."""
    rows = tuple(_row(entry) for entry in entries)
    return Ledger(total - sum(row.bytes for row in rows), rows, total)


def _row(entry: Entry) -> LedgerRow:
    accounts = [stream.account or _account_again(stream, entry.shape) for stream in entry.streams]
    accounts += [_table_account(table) for table in entry.tables]
    return LedgerRow(
        name=entry.name,
        shape=entry.shape,
        form=entry.form,
        coders={stream.name: stream.coder for stream in entry.streams}
        | {
            table.name: "+".join(plane.coder or "raw" for plane in table.planes)
            for table in entry.tables
            if table.packed
        },
        values=sum(part.values for part in accounts),
        positions=sum(part.positions for part in accounts),
        tables=sum(part.tables for part in accounts),
        header=entry.index_bytes,
        entropy_bytes=sum(part.entropy for part in accounts),
    )


def _account_again(stream: Stream, shape: tuple[int, ...]) -> Account:
    """Of a stream that was read: code it again with its own coder, which gives the same bytes and tells their parts."""
    symbols = decode_stream(stream, shape)
    found = account(encode(symbols, stream.coder), symbols)
    size = len(stream.payload)
    if found.values + found.positions + found.tables == size:
        return found
    return Account(size, 0, 0, found.entropy)  # another writer's bytes: what they are for cannot be told


def _table_account(table: Table) -> Account:
    size = sum(len(plane.payload) for plane in table.planes)
    if table.name != VALUES:
        return Account(0, 0, size, 0.0)
    frequencies = sum(_frequency_bytes(plane, table) for plane in table.planes)
    return Account(size - frequencies, 0, frequencies, 0.0)


def _frequency_bytes(plane: Plane, table: Table) -> int:
    if not plane.coder:
        return 0
    if plane.frequency_bytes is not None:
        return plane.frequency_bytes
    encoded = encode(Symbols(decode_plane(plane, table).astype(np.int32), BYTE), plane.coder)
    return encoded.table_bytes if len(encoded.payload) == len(plane.payload) else 0
