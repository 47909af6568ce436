"""One self-contained HTML page from the records of one or several runs. No script: it opens anywhere, and prints.

The page's text lives in `page.html` (the frame), `runs.html` (the comparison), `run.html` (a run's sections) and
`plots.html` (bars and plots), its looks in `page.css`. All that comes from a record is escaped by jinja.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tersenet.core.disk import replace_file, why
from tersenet.core.errors import TersenetError
from tersenet.core.record import Record
from tersenet.report import text
from tersenet.report.histograms import Small, small_multiples
from tersenet.report.ledger import KINDS, Bar, ByteRow, Segment, bars, byte_rows, largest, segments, total
from tersenet.report.names import run_name
from tersenet.report.plots import Plot
from tersenet.report.quality import Quality, headline_quality
from tersenet.report.scatter import run_plot, stage_plot
from tersenet.report.spread import Seeds, seed_groups
from tersenet.report.training import Curve, curve

BARS = 12
"""Tensors with a bar of their own; the rest share one."""
HISTOGRAMS = 24
"""Tensors with a histogram."""


@dataclass(frozen=True)
class RunView:
    """One run, ready for the template."""

    number: int
    name: str
    record: Record
    quality: Quality
    rows: tuple[ByteRow, ...]
    total: ByteRow
    kinds: tuple[Segment, ...]
    bars: tuple[Bar, ...]
    histograms: tuple[Small, ...]
    histograms_left_out: int
    curve: Curve
    stage_plot: Plot | None
    recipe: str
    command: str


@dataclass(frozen=True)
class PageView:
    """All runs and, where there are several, what compares them."""

    runs: tuple[RunView, ...]
    plot: Plot | None
    seeds: tuple[Seeds, ...]
    data_differ: bool


def render(records: Sequence[Record]) -> str:
    """The HTML of a page over `records`, in their order; several begin with a comparison. The same records give the
    same page. Raises TersenetError where there is none."""
    if not records:
        raise TersenetError("a report needs at least one run")
    several = len(records) > 1
    view = PageView(
        tuple(_run(number, record) for number, record in enumerate(records, start=1)),
        run_plot(records) if several else None,
        seed_groups(records),
        len({record.data_digest for record in records}) > 1,
    )
    return environment().get_template("page.html").render(view=view)


def write_page(records: Sequence[Record], path: str | Path) -> Path:
    """Write `render(records)` to `path` as UTF-8: to a temporary name first, so that a page is there whole or not at
    all. Raises TersenetError where it cannot be written."""
    path = Path(path)
    content = render(records).encode("utf-8", errors="replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TersenetError(f"{path}: cannot be written: {why(error)}") from None
    replace_file(path, content)
    return path


def _run(number: int, record: Record) -> RunView:
    rows = byte_rows(record)
    whole = total(rows, "the file")
    histograms, left_out = small_multiples(record, HISTOGRAMS)
    return RunView(
        number=number,
        name=run_name(record),
        record=record,
        quality=headline_quality(record.figures),
        rows=rows,
        total=whole,
        kinds=segments(whole, whole.total),
        bars=bars(largest(rows, BARS), whole.total),
        histograms=histograms,
        histograms_left_out=left_out,
        curve=curve(record),
        stage_plot=stage_plot(record.stages),
        recipe=_yaml(record),
        command=_command(record),
    )


def _yaml(record: Record) -> str:
    plain = record.model_dump(mode="json", fallback=str)["recipe"]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _command(record: Record) -> str:
    """What to run on the recipe, saved as recipe.yaml."""
    if record.recipe.get("model") and record.recipe.get("data"):
        return f"tersenet compress recipe.yaml\ntersenet evaluate {shlex.quote(record.file)}"
    needed = " and ".join(key for key in ("model", "data") if not record.recipe.get(key))
    given = f"# {needed}: the Python objects that this run was given"
    return f'import tersenet\n\n{given}\ntersenet.compress(model, "recipe.yaml", data)'


def _breakable(name: str) -> Markup:
    """A name, escaped, that may go on in the next line after a dot, slash or underscore."""
    return Markup(re.sub(r"([./_])(?=[^./_])", r"\1<wbr>", str(escape(text.clean_line(name)))))


def _shown(value: Any) -> Any:
    """Every value on its way into the page."""
    return text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Where the templates of this room are found, and what they can call."""
    found = Environment(
        loader=PackageLoader("tersenet.report", package_path="."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    spellings = (text.count, text.size, text.percent, text.points, text.factor, text.decimal, text.bits, text.duration)
    estimates = (text.joules, text.brief, text.rate, text.significant, text.mebibytes)
    found.filters.update({function.__name__: function for function in (*spellings, *estimates, text.shape)})
    found.filters["breakable"] = _breakable
    found.globals.update(divide=text.divide, KINDS=KINDS, MISSING=text.MISSING)
    return found
