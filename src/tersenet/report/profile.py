"""A profile for people: a console table of the layers, and a page with a table to sort and the roofline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tersenet.core.disk import replace_file
from tersenet.core.profile import Cost, LayerCost, Profile, total
from tersenet.report import text
from tersenet.report.layers import Column, arranged, columns
from tersenet.report.page import environment
from tersenet.report.plain import line, show, width_of
from tersenet.report.plots import Plot
from tersenet.report.roofline import Share, roofline, shares


@dataclass(frozen=True)
class Cell:
    """A cell of the page's table; `rank` is its place when the table is sorted by its column, -1 is always last."""

    text: str
    rank: int


@dataclass(frozen=True)
class View:
    """The page, ready for its template."""

    profile: Profile
    columns: tuple[Column, ...]
    rows: tuple[tuple[int, tuple[Cell, ...]], ...]
    whole: Cost
    dense: Cost
    shares: tuple[Share, ...]
    least: float | None
    plot: Plot | None
    left_out: int
    script: str
    script_digest: str


def print_profile(
    profile: Profile, sort: str | None = None, top: int | None = None, console: Console | None = None
) -> None:
    """The layers by column `sort`, the first `top` of them, then what the whole comes to.

    Goes to standard output unless a console is given. With too little width, the numbers go below the name.
    """
    console = console or Console()
    rows, shown = arranged(profile, sort, top), columns(profile)
    show(console, line(f"{profile.model}, one pass of {' and '.join(profile.inputs)}"))
    show(console, "")
    wide = _wide(profile, rows, shown)
    if not console.is_terminal or width_of(console, wide) <= console.width:
        show(console, wide)
    else:
        for each in _narrow(profile, rows, shown):
            show(console, line(each))
    if len(rows) < len(profile.layers):
        show(console, line(f"… and {len(profile.layers) - len(rows)} more layers"))
    show(console, "")
    for name, value in summary(profile):
        show(console, line(f"{name:14}{value}"))
    for note in profile.notes:
        show(console, line(f"note: {note}"))


def _wide(profile: Profile, rows: Sequence[LayerCost], shown: Sequence[Column]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in shown:
        table.add_column(column.title, justify="left" if column.words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(line(column.cell(profile, row)) for column in shown))
    return table


def _narrow(profile: Profile, rows: Sequence[LayerCost], shown: Sequence[Column]) -> Iterator[str]:
    """Words of a layer in one line, its numbers below, four to a line."""
    numbers = [column for column in shown if not column.words]
    for row in rows:
        yield "  ".join(column.cell(profile, row) for column in shown if column.words)
        cells = [f"{column.title} {column.cell(profile, row)}" for column in numbers]
        for start in range(0, len(cells), 4):
            yield "   " + ", ".join(cells[start : start + 4])


def summary(profile: Profile) -> Iterator[tuple[str, str]]:
    """What the whole comes to, one line for each."""
    whole, dense = total(profile.costs), total(_dense(profile))
    least = "at least " if profile.unknown else ""
    if profile.file:
        of = f" of {text.count(dense.macs)}, with a weight other than zero {text.count(whole.nonzero)}"
        yield "MACs", f"{least}{text.count(whole.macs)}{of}"
        yield "file", f"{text.size(profile.file.bytes)}, dense in memory {text.size(profile.dense.bytes)}"
    else:
        yield "MACs", f"{least}{text.count(whole.macs)}"
        yield "parameters", f"{text.count(whole.parameters)}, with buffers {text.size(profile.dense.bytes)}"
    alive = f"{text.size(profile.whole.peak_bytes)} alive at once at most"
    yield "activations", alive + (f", dense {text.size(profile.dense.peak_bytes)}" if profile.file else "")
    yield "energy", energy_line(profile, whole, dense)
    if profile.roof:
        peak, bandwidth = text.rate(profile.roof.flops, "FLOP"), text.rate(profile.roof.bandwidth, "B")
        yield "this machine", f"{peak}, {bandwidth}, measured now; {profile.machine}"
        yield "least time", least_line(profile)
    if profile.whole.seconds is not None:
        before = f", dense {text.brief(profile.dense.seconds)}" if profile.file else ""
        yield "measured", f"{text.brief(profile.whole.seconds)}{before}"


def energy_line(profile: Profile, whole: Cost, dense: Cost) -> str:
    if whole.energy is None:
        return text.MISSING
    parts = (("arithmetic", whole.energy.arithmetic), ("weights", whole.energy.weights))
    spelled = ", ".join(
        f"{name} {text.joules(part)}" for name, part in (*parts, ("activations", whole.energy.activations))
    )
    before = f", dense {text.joules(dense.energy.total)}" if profile.file and dense.energy else ""
    return f"{text.joules(whole.energy.total)}, an estimate ({spelled}){before}; {on_chip(profile)}"


def on_chip(profile: Profile) -> str:
    """What the estimate takes for granted."""
    memory = f"{text.size(profile.sram)} of SRAM" if profile.sram else "everything from DRAM"
    return memory + (", activations taken for quantized" if profile.integer else "")


def least_line(profile: Profile) -> str:
    """'1.53 ms if all comes from memory: 60 % bound by arithmetic (fewer multiplications help), …'."""
    if profile.roof is None:
        return text.MISSING
    found = shares(profile.roof, profile.costs)
    parts = (f"{text.percent(share.share, 0)} bound by {share.bound} ({share.helps})" for share in found)
    return f"{text.brief(sum(share.seconds for share in found))} if all comes from memory: {', '.join(parts)}"


def as_json(profile: Profile, sort: str | None = None, top: int | None = None) -> dict[str, Any]:
    """The profile as plain values, its layers as in the table, with what the columns derive: intensity, bound, least
    (seconds); and the totals."""
    shown = {column.key: column for column in columns(profile)}
    plain = profile.model_dump(mode="json")
    rows = []
    for layer in arranged(profile, sort, top):
        least = shown["least"].value(profile, layer)
        derived = {key: shown[key].value(profile, layer) for key in ("intensity", "bound")}
        rows.append({**layer.model_dump(mode="json"), **derived, "least": None if least is None else least / 1e6})
    totals = {"here": total(profile.costs), "dense": total(_dense(profile))}
    spent = shares(profile.roof, profile.costs) if profile.roof else ()
    return {
        **plain,
        "layers": rows,
        "totals": {name: cost.model_dump(mode="json") for name, cost in totals.items()},
        "least": {share.bound: share.seconds for share in spent},
    }


def write_profile(profile: Profile, path: str | Path, sort: str | None = None) -> Path:
    """The page. Raises TersenetError where it cannot be written."""
    path = Path(path)
    replace_file(path, render_profile(profile, sort).encode("utf-8", errors="replace"))
    return path


def render_profile(profile: Profile, sort: str | None = None) -> str:
    """The HTML of the page; the same profile gives the same page. Its one script sorts the table; the page's policy
    lets no other run, and without it the page is whole but for that."""
    shown = columns(profile)
    ranks = {column.key: _ranks(profile, column) for column in shown}
    rows = tuple(
        (
            profile.layers.index(layer) + 1,
            tuple(Cell(column.cell(profile, layer), ranks[column.key][layer.name]) for column in shown),
        )
        for layer in arranged(profile, sort)
    )
    found = shares(profile.roof, profile.costs) if profile.roof else ()
    plot = roofline(profile)
    view = View(
        profile=profile,
        columns=shown,
        rows=rows,
        whole=total(profile.costs),
        dense=total(_dense(profile)),
        shares=found,
        least=sum(share.seconds for share in found) if found else None,
        plot=plot,
        left_out=len(profile.layers) - sum(len(line.marks) for line in plot.lines) if plot else 0,
        script=_script(),
        script_digest=base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode(),
    )
    return environment().get_template("profile.html").render(view=view, energy=energy_line, on_chip=on_chip)


def _ranks(profile: Profile, column: Column) -> dict[str, int]:
    values: dict[str, Any] = {layer.name: column.value(profile, layer) for layer in profile.layers}
    told = sorted({value for value in values.values() if value is not None}, reverse=not column.words)
    places = {value: place for place, value in enumerate(told)}
    return {name: -1 if value is None else places[value] for name, value in values.items()}


def _dense(profile: Profile) -> Sequence[Cost]:
    return [layer.dense for layer in profile.layers if layer.dense is not None]


@lru_cache(maxsize=1)
def _script() -> str:
    return (resources.files("tersenet.report") / "sort.js").read_text(encoding="utf-8")
