"""Error against bytes: what was achieved, what others have published, and a bound below both."""

from __future__ import annotations

from collections.abc import Sequence

from tersenet.report.axes import axis_for
from tersenet.report.plots import Line, Mark, Plot, path
from tersenet.report.scatter import Spot, number_labels
from tersenet.report.text import percent, size, tick_percent, tick_size


def frontier_plot(
    achieved: Sequence[Spot], published: Sequence[Spot] = (), bound: Sequence[tuple[float, float]] = ()
) -> Plot | None:
    """Achieved files joined from the smallest on, published ones as points, and the bound, (bytes, error), as a line.

    Errors are shares in [0, 1]; sizes on a logarithmic axis. None where nothing was achieved. A bound is drawn where
    files and records lie, and cut off elsewhere.
    """
    if not achieved:
        return None
    spots = [*achieved, *published]
    sizes = [spot.file_bytes for spot in spots]
    x = axis_for(sizes, tick_size, log=min(sizes) > 0 and max(sizes) > 4 * min(sizes))
    y = axis_for([spot.value for spot in spots], tick_percent, zero=True)

    def line(name: str, style: str, shown: Sequence[Spot], *, joined: bool) -> Line:
        places = [(x.place(spot.file_bytes), y.place(spot.value)) for spot in shown]
        marks = tuple(Mark(*place, _title(spot)) for place, spot in zip(places, shown, strict=True))
        labels = number_labels([(*place, str(spot.number)) for place, spot in zip(places, shown, strict=True)])
        return Line(name, style, path(places) if joined else "", marks, labels)

    lines = [line("achieved", "first", sorted(achieved, key=lambda spot: spot.file_bytes), joined=True)]
    if published:
        lines.append(line("published", "second", published, joined=False))
    inside = [(b, e) for b, e in sorted(bound) if x.low <= b <= x.high and y.low <= e <= y.high]
    if inside:
        lines.append(Line("bound", "third", path([(x.place(b), y.place(e)) for b, e in inside])))
    x_title = "file size, logarithmic" if x.log else "file size"
    alt = "; ".join(map(_title, spots))
    return Plot("Error against file size", alt, x, y, x_title, "error", tuple(lines))


def _title(spot: Spot) -> str:
    return f"{spot.number} {spot.name}: {size(spot.file_bytes)}, error {percent(spot.value)}"
