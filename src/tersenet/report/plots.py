"""What a plot is made of, with every place in percent, so that it fits any width without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tersenet.report.axes import Axis


@dataclass(frozen=True)
class Mark:
    """A point; hovering shows `title`."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Label:
    """The numbers of a point, or of several that lie too close for one each."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line through points. `style` is a class of the style sheet ('first', 'second')."""

    name: str
    style: str
    path: str
    marks: tuple[Mark, ...] = ()
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True)
class Band:
    """A stretch of the x axis with a letter that the legend explains."""

    start: float
    width: float
    letter: str
    title: str


@dataclass(frozen=True)
class Plot:
    """Axes, lines and bands; `alt` says in one sentence what a reader would see."""

    caption: str
    alt: str
    x: Axis
    y: Axis
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    bands: tuple[Band, ...] = ()


def path(places: Sequence[tuple[float, float] | None]) -> str:
    """SVG path through places in percent (y upwards); None breaks the line."""
    steps = []
    pen = "M"
    for place in places:
        if place is None:
            pen = "M"
            continue
        steps.append(f"{pen}{place[0]:g} {round(100 - place[1], 2):g}")
        pen = "L"
    return "".join(steps)
