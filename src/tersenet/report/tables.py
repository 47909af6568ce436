"""Plain console tables: what a run came to, and where each byte of a file went.

On a terminal they fit its width; where the output is a file or a pipe they take the width they need, one line per row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tersenet.core.record import Figures, Record
from tersenet.report import text
from tersenet.report.plain import line, show, width_of
from tersenet.report.quality import headline_quality

if TYPE_CHECKING:
    from tersenet.artifact import Contents, Ledger, LedgerRow

PAGE_NAME = "report.html"
"""What the page of a run is called in its folder."""
NUMBERS = ("values", "positions", "tables", "header", "total", "entropy", "bits/weight")


def print_summary(record: Record, folder: str | Path, console: Console | None = None) -> None:
    """The end of `compress`: sizes, ratio, quality dense and read back, what could not be done, and the paths.

    Goes to standard output unless a console is given. Paths are never wrapped, so that they can be copied.
    """
    console = console or Console()
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for cells in (*_size_rows(record), *_quality_rows(record)):
        table.add_row(*map(line, cells))
    show(console, table)
    for note in record.notes:
        show(console, line(f"note: {note}"))
    folder = Path(folder)
    show(console, line(f"file: {folder / record.file}"), whole=True)
    if (folder / PAGE_NAME).exists():
        show(console, line(f"page: {folder / PAGE_NAME}"), whole=True)


def _size_rows(record: Record) -> list[tuple[str, str, str]]:
    figures = record.figures
    share = text.percent(text.divide(figures.nonzero, figures.parameters))
    return [
        ("dense file", text.size(figures.dense_bytes), "fp32 .safetensors"),
        ("the same, zstd -19", text.size(figures.dense_zstd_bytes), ""),
        (record.file, text.size(figures.file_bytes), ""),
        ("ratio", text.factor(figures.ratio), "fp32 weights over the file"),
        ("weights not zero", text.count(figures.nonzero), f"of {text.count(figures.parameters)}, {share}"),
        *_macs_rows(figures),
    ]


def _macs_rows(figures: Figures) -> list[tuple[str, str, str]]:
    """Where channels or blocks have gone; zeros alone save none."""
    if figures.macs_file is None or figures.macs is None or figures.macs_file == figures.macs:
        return []
    share = text.percent(text.divide(figures.macs_file, figures.macs))
    return [("MACs", text.count(figures.macs_file), f"of {text.count(figures.macs)}, {share}")]


def _quality_rows(record: Record) -> list[tuple[str, str, str]]:
    quality = headline_quality(record.figures)
    examples = record.figures.examples_test
    on = f"on {text.count(examples)} test examples" if quality.name.startswith("test") and examples else ""
    dense, file = (on if value is not None else "not measured" for value in (quality.dense, quality.file))
    return [
        (f"{quality.name}, dense", quality.spell(quality.dense), dense),
        (f"{quality.name}, file read back", quality.spell(quality.file), file),
    ]


def print_ledger(file: str | Path, contents: Contents, ledger: Ledger, console: Console | None = None) -> None:
    """What `inspect` prints: origin of the file, then every tensor with its bytes by kind, entropy and bits per
    weight, then the file's own header and the sum.

    Goes to standard output unless a console is given. With too little width, the numbers go below the name.
    """
    console = console or Console()
    show(console, line(f"{file}: {text.size(ledger.total)}"), whole=True)
    for name, value in _origin(contents).items():
        show(console, line(f"{name}: {value}"))
    show(console, "")
    wide = _wide(ledger)
    fits = not console.is_terminal or width_of(console, wide) <= console.width
    for shown in (wide,) if fits else _narrow(ledger):
        show(console, shown)
    show(console, "")
    show(console, line("entropy: bytes that the symbols need at least when coded one by one, tables not counted"))


def _origin(contents: Contents) -> dict[str, str]:
    """Where the file came from, as far as it says."""
    model = contents.model or {}
    known = {
        "model": str(model.get("name") or model.get("factory") or "given in Python"),
        "data": f"{contents.data} {contents.data_digest}".strip(),
        "seed": str(contents.seed),
        "made with": ", ".join(f"{name} {version}" for name, version in contents.versions.items()),
        "shared": ", ".join(f"{alias} is {name}" for alias, name in contents.aliases.items()),
    }
    return {name: value for name, value in known.items() if value}


def _wide(ledger: Ledger) -> Table:
    """One line per tensor."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("tensor", "shape", "form", "coder"):
        table.add_column(name, no_wrap=True)
    for name in NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in ledger.rows:
        table.add_row(line(row.name), *map(line, _description(row)), *_numbers(row))
    header = text.count(ledger.header_bytes)
    table.add_row("file header", "", "", "", "", "", "", header, header)
    table.add_row("file", "", "", "", *_sums(ledger), style="bold")
    return table


def _narrow(ledger: Ledger) -> Iterator[Text]:
    """Two lines per tensor: what it is, and its numbers."""
    header = text.count(ledger.header_bytes)
    named = [(f"{row.name}  {' '.join(_description(row))}", _numbers(row)) for row in ledger.rows]
    named += [("file header", ["", "", "", header, header, "", ""]), ("file", _sums(ledger))]
    widths = [max(map(len, column)) for column in zip(NUMBERS, *(numbers for _, numbers in named), strict=True)]
    for name, numbers in [("", NUMBERS), *named]:
        if name:
            yield line(name)
        yield line("  " + "  ".join(number.rjust(width) for number, width in zip(numbers, widths, strict=True)))


def _description(row: LedgerRow) -> tuple[str, str, str]:
    return text.shape(row.shape).replace(text.NBSP, ""), row.form, _coders(row.coders)


def _numbers(row: LedgerRow) -> list[str]:
    parts = (row.values, row.positions, row.tables, row.header)
    entropy = text.count(round(row.entropy_bytes)) if row.entropy_bytes > 0 else text.MISSING
    per_weight = text.divide(8 * sum(parts), math.prod(row.shape))
    return [*(text.count(number) for number in (*parts, sum(parts))), entropy, text.bits(per_weight)]


def _sums(ledger: Ledger) -> list[str]:
    """Each kind over all tensors, headers with the file's own, the size of the file, and its bits per weight."""
    rows = ledger.rows
    kinds = (sum(r.values for r in rows), sum(r.positions for r in rows), sum(r.tables for r in rows))
    headers = ledger.header_bytes + sum(row.header for row in rows)
    per_weight = text.divide(8 * ledger.total, sum(math.prod(row.shape) for row in rows))
    return [*(text.count(number) for number in (*kinds, headers, ledger.total)), "", text.bits(per_weight)]


def _coders(coders: Mapping[str, str]) -> str:
    """'ans', or 'index ans, mask huffman' where streams were coded in different ways."""
    if len(set(coders.values())) <= 1:
        return next(iter(coders.values()), text.MISSING)
    return ", ".join(f"{stream} {coder}" for stream, coder in coders.items())
