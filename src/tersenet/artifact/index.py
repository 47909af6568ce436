"""The index: per tensor, the numbers that its layout leaves open. All are LEB128, none is believed unchecked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from tersenet.artifact.entry import DTYPES, MAX_ALPHABET, MAX_AXES, MAX_PARTS, Entry, Plane, Stream, Table
from tersenet.artifact.text import FLAT, FULL, ZERO, Layout, TableLayout
from tersenet.artifact.varint import Cursor, unzigzag, varint, zigzag
from tersenet.coding import coder_id, coder_name
from tersenet.core.errors import ArtifactError

AXES_BITS = 4
"""A record begins with layout · 16 + number of axes."""


def layout_of(entry: Entry) -> Layout:
    """Raises ArtifactError if the entry has more parts or axes than a file can hold."""
    elements = math.prod(entry.shape)
    if len(entry.streams) + len(entry.tables) + len(entry.options) > MAX_PARTS:
        raise ArtifactError(f"tensor '{entry.name}' has more than {MAX_PARTS} streams, tables and options")
    if max([len(entry.shape), *(len(table.shape) for table in entry.tables)]) > MAX_AXES:
        raise ArtifactError(f"tensor '{entry.name}' has more than {MAX_AXES} axes")
    return Layout(
        form=entry.form,
        dtype=entry.dtype,
        streams={s.name: ZERO * s.zero + FULL * (s.length == elements) for s in entry.streams},
        tables={
            t.name: TableLayout(t.dtype, FLAT if t.shape == (elements,) else len(t.shape), 1 if t.packed else 0)
            for t in entry.tables
        },
        options=list(entry.options),
    )


def write_record(entry: Entry, layout: Layout, number: int) -> bytes:
    """The record of one tensor; `number` is that of its layout."""
    numbers = [number << AXES_BITS | len(entry.shape), *entry.shape, *map(zigzag, entry.options.values())]
    for stream in entry.streams:
        if not layout.streams[stream.name] & FULL:
            numbers.append(stream.length)
        numbers += [stream.alphabet, coder_id(stream.coder), len(stream.payload)]
    for table in entry.tables:
        if layout.tables[table.name].axes != FLAT:
            numbers += table.shape
        if table.packed:
            for plane in table.planes:
                numbers += [coder_id(plane.coder) + 1, len(plane.payload)] if plane.coder else [0]
    return b"".join(map(varint, numbers))


def read_records(cursor: Cursor, names: list[str], layouts: list[Layout]) -> list[tuple[Entry, list[int]]]:
    """Entries without their payloads, each with the lengths of these in the order of the file."""
    for layout in layouts:
        if len(layout.streams) + len(layout.tables) + len(layout.options) > MAX_PARTS:
            raise ArtifactError(f"malformed: a layout has more than {MAX_PARTS} streams, tables and options")
        if len(set(layout.options)) < len(layout.options):
            raise ArtifactError("malformed: a layout names an option twice")
    return [_read_record(cursor, name, layouts) for name in names]


def _read_record(cursor: Cursor, name: str, layouts: list[Layout]) -> tuple[Entry, list[int]]:
    begin = cursor.position
    what = f"the record of '{name}'"
    first = cursor.varint(what)
    if first >> AXES_BITS >= len(layouts):
        raise ArtifactError(f"malformed: {what} names layout {first >> AXES_BITS} of {len(layouts)}")
    layout = layouts[first >> AXES_BITS]
    shape = _numbers(cursor, first % 2**AXES_BITS, what)
    options = {option: unzigzag(cursor.varint(what)) for option in layout.options}
    streams, lengths = [], []
    for stream, flags in layout.streams.items():
        entry, length = _read_stream(cursor, stream, flags, math.prod(shape), what)
        streams.append(entry)
        lengths.append(length)
    tables = []
    for table, kind in layout.tables.items():
        entry_, more = _read_table(cursor, table, kind, math.prod(shape), what)
        tables.append(entry_)
        lengths += more
    size = cursor.position - begin
    return Entry(name, layout.form, layout.dtype, shape, options, tuple(streams), tuple(tables), size), lengths


def _numbers(cursor: Cursor, count: int, what: str) -> tuple[int, ...]:
    return tuple(cursor.varint(what) for _ in range(count))


def _read_stream(cursor: Cursor, name: str, flags: int, elements: int, what: str) -> tuple[Stream, int]:
    length = elements if flags & FULL else cursor.varint(what)
    alphabet, coder, size = _numbers(cursor, 3, what)
    if alphabet > MAX_ALPHABET or (length and not alphabet):
        raise ArtifactError(f"malformed: {what} has {length} symbols out of {alphabet}")
    return Stream(name, bool(flags & ZERO), length, alphabet, _coder(coder, what), b""), size


def _read_table(cursor: Cursor, name: str, kind: TableLayout, elements: int, what: str) -> tuple[Table, list[int]]:
    shape = (elements,) if kind.axes == FLAT else _numbers(cursor, kind.axes, what)
    count, width = math.prod(shape), DTYPES[kind.dtype].itemsize
    if not kind.packed:
        return Table(name, kind.dtype, shape, False, (Plane("", b""),)), [count * width]
    planes, lengths = [], []
    for _ in range(width):
        coder = cursor.varint(what)
        planes.append(Plane(_coder(coder - 1, what) if coder else "", b""))
        lengths.append(cursor.varint(what) if coder else count)
    return Table(name, kind.dtype, shape, True, tuple(planes)), lengths


def _coder(number: int, what: str) -> str:
    try:
        return coder_name(number)
    except (LookupError, ValueError, ArtifactError):
        raise ArtifactError(f"malformed: {what} names the unknown coder {number}; update tersenet") from None


def with_payloads(entry: Entry, payloads: Iterator[memoryview]) -> Entry:
    """The same entry holding its coded bytes."""
    streams = tuple(replace(stream, payload=next(payloads)) for stream in entry.streams)
    tables = tuple(
        replace(table, planes=tuple(replace(plane, payload=next(payloads)) for plane in table.planes))
        for table in entry.tables
    )
    return replace(entry, streams=streams, tables=tables)
