"""A table of the literature: rows that are recipes, with the published figures beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tersenet.core.record import Record
from tersenet.core.registry import Registry


@dataclass(frozen=True)
class Published:
    """What a paper states. Errors are shares in [0, 1]; bytes as the paper rounds them; `detail` as the table's."""

    source: str
    error: float | None = None
    bytes: int | None = None
    ratio: float | None = None
    nonzero: int | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Row:
    """One recipe, run with each seed. `published` is None for a control of our own.

    In a figure, rows of one `series` are joined by a line, and `mark` stands at the point.
    """

    name: str
    recipe: str
    about: str
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    published: Published | None = None
    series: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """`data`: the folder of the data set below `--data`. `detail`: what else the table shows of each run, and its head.
    `remark`: what a reader must know of the runs, such as a schedule that is shorter than the published one. `figure`:
    whether error against bytes is drawn beside the page. `across`: against what instead; with `epochs`, `detail` gives
    the errors. `records`: what else is drawn of what has been published."""

    title: str
    data: str
    rows: tuple[Row, ...]
    detail: Callable[[Record], str] | None = None
    head: str = ""
    remark: str = ""
    figure: bool = False
    across: Literal["file_bytes", "macs", "epochs"] = "file_bytes"
    records: tuple[Published, ...] = ()


TABLES: Registry[Table] = Registry("table")


def matching(table: Table, pattern: str | None) -> Iterable[Row]:
    """The rows whose name matches a shell pattern; all without one."""
    from fnmatch import fnmatch

    return [row for row in table.rows if pattern is None or fnmatch(row.name, pattern)]
