"""Where every byte went: rows that sum exactly to the size of the file, and the stacked bars that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tersenet.core.record import Record
from tersenet.report.text import count, divide, percent, size

KINDS = {
    "values": "values",
    "positions": "positions",
    "tables": "tables",
    "header": "headers",
    "other": "not accounted for",
}
"""Kinds of bytes in the order in which they are stacked."""


@dataclass(frozen=True)
class ByteRow:
    """Bytes of one tensor, or of what belongs to none."""

    name: str
    values: int = 0
    positions: int = 0
    tables: int = 0
    header: int = 0
    other: int = 0
    summed: bool = False

    @property
    def total(self) -> int:
        return self.values + self.positions + self.tables + self.header + self.other


@dataclass(frozen=True)
class Segment:
    """A piece of a bar, in percent of the width."""

    kind: str
    start: float
    width: float
    title: str


@dataclass(frozen=True)
class Bar:
    """A stacked bar with its name and what it comes to."""

    name: str
    text: str
    share: str
    segments: tuple[Segment, ...]


def byte_rows(record: Record) -> tuple[ByteRow, ...]:
    """One row per tensor in the order of the file, then the file's own header; their totals sum to `file_bytes`.

    If the record's parts do not, one more row says how many bytes are missing (or too many).
    """
    rows = [
        ByteRow(row.name, row.bytes_values, row.bytes_positions, row.bytes_tables, row.bytes_header)
        for row in record.tensors
    ]
    rows.append(ByteRow("file header", header=record.bytes_file_header))
    missing = record.figures.file_bytes - sum(row.total for row in rows)
    if missing:
        rows.append(ByteRow("not accounted for", other=missing))
    return tuple(rows)


def total(rows: Sequence[ByteRow], name: str) -> ByteRow:
    """All rows as one, kind by kind."""
    return ByteRow(name, **{kind: sum(getattr(row, kind) for row in rows) for kind in KINDS}, summed=True)


def largest(rows: Sequence[ByteRow], places: int) -> tuple[ByteRow, ...]:
    """The `places` rows with the most bytes, largest first, and all others as one row at the end."""
    ordered = sorted(rows, key=lambda row: -row.total)
    if len(ordered) <= places + 1:
        return tuple(ordered)
    rest = ordered[places:]
    return (*ordered[:places], total(rest, f"{count(len(rest))} smaller ones"))


def bars(rows: Sequence[ByteRow], whole: int) -> tuple[Bar, ...]:
    """A bar per row; the longest fills the width, and the share in its text is of `whole` bytes.

    A row that sums others up gets none: it would dwarf them.
    """
    longest = max((row.total for row in rows if not row.summed), default=0)
    return tuple(
        Bar(
            row.name,
            size(row.total),
            percent(divide(row.total, whole), 1),
            () if row.summed else segments(row, longest),
        )
        for row in rows
    )


def segments(row: ByteRow, width: int) -> tuple[Segment, ...]:
    """The kinds of one row, stacked; `width` bytes fill the bar."""
    found = []
    start = 0.0
    for kind, spelled in KINDS.items():
        number: int = getattr(row, kind)
        long = round(min(100.0 - start, 100 * (divide(number, width) or 0.0)), 3)
        if number > 0 and long > 0:
            found.append(Segment(kind, round(start, 3), long, f"{row.name}: {spelled} {size(number)}"))
            start += long
    return tuple(found)
