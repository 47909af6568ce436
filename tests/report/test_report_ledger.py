"""Bytes: rows sum exactly to the file, nothing is lost in 'the rest', bars have the lengths they should."""

from __future__ import annotations

import pytest

from tersenet.report.ledger import KINDS, ByteRow, bars, byte_rows, largest, segments, total


def test_rows_sum_to_the_file_by_kind(record):
    rows = byte_rows(record)
    assert sum(row.total for row in rows) == record.figures.file_bytes
    whole = total(rows, "file")
    assert whole.values == sum(row.bytes_values for row in record.tensors)
    assert whole.positions == sum(row.bytes_positions for row in record.tensors)
    assert whole.tables == sum(row.bytes_tables for row in record.tensors)
    assert whole.header == sum(row.bytes_header for row in record.tensors) + record.bytes_file_header
    assert whole.other == 0


@pytest.mark.parametrize("missing", [17, -17])
def test_parts_that_do_not_sum_get_a_row_of_their_own(record, missing):
    figures = record.figures.model_copy(update={"file_bytes": record.figures.file_bytes + missing})
    rows = byte_rows(record.model_copy(update={"figures": figures}))
    assert rows[-1].other == missing
    assert sum(row.total for row in rows) == figures.file_bytes


def test_largest_keeps_the_sum_and_the_order():
    rows = [ByteRow(f"t{size}", values=size, positions=size // 2) for size in range(100)]
    shown = largest(rows, 12)
    assert [row.name for row in shown[:12]] == [f"t{size}" for size in range(99, 87, -1)]
    assert shown[12].name == "88 smaller ones"
    for kind in KINDS:
        assert sum(getattr(row, kind) for row in shown) == sum(getattr(row, kind) for row in rows)


def test_largest_never_sums_up_a_single_row():
    rows = [ByteRow(f"t{size}", values=size) for size in range(13)]
    assert {row.name for row in largest(rows, 12)} == {row.name for row in rows}


def test_segments_are_stacked_in_proportion():
    row = ByteRow("fc1", values=10, positions=20, tables=0, header=20)
    pieces = segments(row, 100)
    assert [(piece.kind, piece.start, piece.width) for piece in pieces] == [
        ("values", 0, 10),
        ("positions", 10, 20),
        ("header", 30, 20),
    ]
    assert pieces[1].title.replace("\u00a0", " ") == "fc1: positions 20 bytes"


def test_the_longest_bar_fills_the_width_and_the_rest_has_none():
    rows = [ByteRow(f"t{size}", values=size) for size in range(1, 101)]
    drawn = bars(largest(rows, 12), 5050)
    assert drawn[0].segments[0].width == 100
    assert drawn[1].segments[0].width == 99
    assert drawn[-1].segments == ()
    assert drawn[0].share.replace("\u00a0", " ") == "2.0 %"
