"""What each tensor of a file takes, beside what its symbols need at least."""

from __future__ import annotations

import math
from pathlib import Path

from tersenet import artifact
from tersenet.artifact.document import parse
from tersenet.artifact.entry import DEFAULT_MAX_BYTES, Entry, Table
from tersenet.artifact.ledger import VALUES
from tersenet.artifact.tables import BYTE, decode_plane
from tersenet.bounds.code_length import TensorLength, code_length
from tersenet.coding import encode
from tersenet.core.code import Code, Symbols


def tensor_lengths(path: Path, contents: artifact.Contents, ledger: artifact.Ledger) -> tuple[TensorLength, ...]:
    """Of every tensor in the file at `path`, in its order; contents and ledger: what was read from it."""
    entries = parse(path.read_bytes(), DEFAULT_MAX_BYTES).entries
    return tuple(_length(e, contents.tensors[e.name], r) for e, r in zip(entries, ledger.rows, strict=True))


def _length(entry: Entry, code: Code, row: artifact.LedgerRow) -> TensorLength:
    streams = sum(len(stream.payload) for stream in entry.streams)
    others = row.values + row.positions + row.tables - streams
    ideals = [code_length(symbols.counted[1], max(symbols.alphabet, 1)) for symbols in code.streams.values()]
    tables = sum(table.nbytes for table in code.tables.values())
    return TensorLength(
        name=entry.name,
        weights=math.prod(entry.shape),
        streams=streams,
        others=others,
        plain=sum(ideal.alphabet for ideal in ideals) / 8 + tables,
        entropy=sum(ideal.zeroth for ideal in ideals) / 8,
        coder_tables=row.tables - sum(map(_told_as_tables, entry.tables)) if entry.streams else 0,
        adaptive=sum(ideal.adaptive for ideal in ideals) / 8,
        disk=row.bytes,
    )


def _told_as_tables(table: Table) -> int:
    """What of a table the ledger counts under 'tables': all of a codebook, of values the frequencies alone."""
    if table.name != VALUES:
        return sum(len(plane.payload) for plane in table.planes)
    coded = [plane for plane in table.planes if plane.coder]
    return sum(encode(Symbols(decode_plane(plane, table), BYTE), plane.coder).table_bytes for plane in coded)
