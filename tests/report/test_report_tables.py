"""Console tables: whole numbers at 80 columns, whole lines when the output is no terminal."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from tersenet.artifact import Contents, Ledger, LedgerRow
from tersenet.report import print_ledger, print_summary


def printed(print_, *args, width=80, terminal=True, encoding="utf-8") -> list[str]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    print_(*args, Console(file=file, force_terminal=terminal, width=width, color_system=None))
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


@pytest.fixture
def ledger(record) -> Ledger:
    rows = tuple(
        LedgerRow(
            row.name,
            row.shape,
            row.form,
            row.coders,
            row.bytes_values,
            row.bytes_positions,
            row.bytes_tables,
            row.bytes_header,
            row.entropy_bytes,
        )
        for row in record.tensors
    )
    return Ledger(record.bytes_file_header, rows, record.figures.file_bytes)


@pytest.fixture
def contents(record) -> Contents:
    return Contents(
        tensors={},
        aliases={"decoder.weight": "fc1.weight"},
        model={"name": "lenet_300_100"},
        versions=record.versions,
        data=record.data,
        data_digest=record.data_digest,
        seed=1,
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_summary_says_it_all(record, tmp_path, terminal):
    (tmp_path / "report.html").touch()
    lines = printed(print_summary, record, tmp_path, terminal=terminal)
    text = "\n".join(" ".join(line.split()) for line in lines)
    for expected in (
        "dense file 1,066,968 bytes",
        "the same, zstd -19 985,412 bytes",
        "lenet_300_100.terse 21,517 bytes",
        "ratio 49.6×",
        "weights not zero 22,186 of 266,610, 8.32 %",
        "test error, dense 1.64 % on 10,000 test examples",
        "test error, file read back 1.58 %",
        "note: fc3.weight: at most 26 %",
        f"file: {tmp_path}/lenet_300_100.terse",
        f"page: {tmp_path}/report.html",
    ):
        assert expected in text, expected
    assert all(len(line) <= 80 for line in lines if str(tmp_path) not in line and not line.startswith("note"))


def test_summary_without_figures_says_so(record, tmp_path):
    missing = {name: None for name in type(record.figures).model_fields if name.startswith(("test_", "valid"))}
    lines = printed(
        print_summary,
        record.model_copy(update={"figures": record.figures.model_copy(update=missing)}),
        tmp_path,
        terminal=False,
    )
    assert any(line.split() == cells("test error, file read back – not measured") for line in lines)
    assert not any(line.startswith("page:") for line in lines)


def test_paths_are_never_wrapped(record):
    deep = "a/" * 100
    assert f"file: {deep}lenet_300_100.terse" in printed(print_summary, record, deep)


def cells(line: str) -> list[str]:
    return line.split()


def test_ledger_in_one_line_per_tensor(ledger, contents):
    lines = printed(print_ledger, "x.terse", contents, ledger, terminal=False)
    assert lines[0] == "x.terse: 21,517 bytes"
    assert "model: lenet_300_100" in lines and "shared: decoder.weight is fc1.weight" in lines
    row = next(cells(line) for line in lines if line.startswith("fc1.weight"))
    assert row[:8] == ["fc1.weight", "300×784", "shared", "ans", "7,665", "9,755", "112", "14"]
    first = ledger.rows[0]
    assert row[8:] == [f"{first.bytes:,}", "17,350", f"{8 * first.bytes / 235_200:.2f}"]
    total = next(cells(line) for line in lines if line.startswith("file  "))
    weights = sum(math.prod(row.shape) for row in ledger.rows)
    assert total == ["file", "9,648", "11,233", "336", "300", "21,517", f"{8 * 21_517 / weights:.2f}"]
    bias = next(cells(line) for line in lines if line.startswith("fc1.bias"))
    assert bias[3] == "–" and bias[-2] == "–"


@pytest.mark.parametrize("scale", [1, 5000])
def test_ledger_at_80_columns_keeps_every_digit(ledger, contents, scale):
    rows = tuple(
        LedgerRow(
            f"encoder.blocks.{place}.attention.{row.name}",
            row.shape,
            row.form,
            row.coders,
            row.values * scale,
            row.positions * scale,
            row.tables,
            row.header,
            row.entropy_bytes * scale,
        )
        for place, row in enumerate(ledger.rows)
    )
    total = ledger.header_bytes + sum(row.bytes for row in rows)
    lines = printed(print_ledger, "x.terse", contents, Ledger(ledger.header_bytes, rows, total))
    assert all(len(line) <= 80 for line in lines)
    for row in rows:
        place = next(i for i, line in enumerate(lines) if line.startswith(row.name))
        assert cells(lines[place + 1])[:5] == [
            f"{number:,}" for number in (row.values, row.positions, row.tables, row.header, row.bytes)
        ]
    place = lines.index("file")
    assert f"{total:,}" in cells(lines[place + 1])


def test_a_wide_terminal_gets_one_line_per_tensor(ledger, contents):
    lines = printed(print_ledger, "x.terse", contents, ledger, width=120)
    assert any(line.startswith("fc1.weight") and "17,546" in line for line in lines)


def test_names_are_neither_markup_nor_terminal_commands(ledger, contents):
    first = ledger.rows[0]
    evil = LedgerRow("[red]x[/]\x1b[2J\n", first.shape, first.form, first.coders, 1, 2, 3, 4, 5.0)
    for terminal in (True, False):
        lines = printed(print_ledger, "x", contents, Ledger(0, (evil,), 10), terminal=terminal)
        assert any(line.startswith("[red]x[/]�[2J�") for line in lines)
        assert "\x1b[2J" not in "".join(lines)


def test_an_output_without_unicode(ledger, contents):
    lines = printed(print_ledger, "x", contents, ledger, terminal=False, encoding="ascii")
    assert any("300?784" in line for line in lines)


def test_no_tensors(contents):
    for terminal, named in ((True, ""), (False, "file ")):
        lines = printed(print_ledger, "x", contents, Ledger(10, (), 10), terminal=terminal)
        assert any(cells(line) == cells(named + "0 0 0 10 10 –") for line in lines)
