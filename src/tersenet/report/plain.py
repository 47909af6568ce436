"""Printing to a console so that a terminal's width is kept, and a file or a pipe gets every line whole."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.text import Text

from tersenet.report.text import NBSP, clean_line

ANY_WIDTH = 10_000


def line(value: str) -> Text:
    """`value` as it is: no markup, no control characters, ordinary spaces."""
    return Text(clean_line(value).replace(NBSP, " "))


def width_of(console: Console, shown: RenderableType) -> int:
    """Columns that `shown` takes when nothing is wrapped."""
    return max(1, Measurement.get(console, console.options.update(max_width=ANY_WIDTH), shown).maximum)


def show(console: Console, shown: RenderableType, *, whole: bool = False) -> None:
    """Print `shown`: at the console's width on a terminal, else (or if `whole`) unwrapped.

    Characters that the output's encoding lacks are printed as '?'.
    """
    if not whole and console.is_terminal:
        console.print(shown)
        return
    options = console.options.update(width=width_of(console, shown))
    for segments in console.render_lines(shown, options, pad=False):
        plain = "".join(segment.text for segment in segments if not segment.control).rstrip()
        console.out(plain.encode(console.encoding, errors="replace").decode(console.encoding), highlight=False)
