"""The roofline of a machine with the layers of a network under it, and what it says about where time can be won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tersenet.core.profile import Bound, Cost, Profile, Roof, intensity
from tersenet.report import text
from tersenet.report.axes import Axis, axis_for
from tersenet.report.layers import MODEL
from tersenet.report.plots import Label, Line, Mark, Plot, path

NAMED = 10
"""Layers that the plot's text alternative names: those that take longest."""
HELPS: dict[Bound, str] = {
    "arithmetic": "fewer multiplications help",
    "weights": "fewer bytes of weights help",
    "activations": "smaller or fused activations help",
}


@dataclass(frozen=True)
class Share:
    """Layers that are bound by the same. seconds: their least time together. share: of that of all layers."""

    bound: Bound
    layers: int
    seconds: float
    share: float

    @property
    def helps(self) -> str:
        return HELPS[self.bound]


@dataclass(frozen=True)
class Point:
    """A layer under the roof. speed: multiplications and additions per second, as measured."""

    number: int
    name: str
    intensity: float
    speed: float
    seconds: float
    bound: Bound


def shares(roof: Roof, costs: Sequence[Cost]) -> tuple[Share, ...]:
    """What the least time is spent on, the largest share first; layers that cannot be told are left out."""
    times: dict[Bound, list[float]] = {}
    for cost in costs:
        bound, seconds = roof.bound(cost), roof.seconds(cost)
        if bound is not None and seconds is not None and seconds > 0:
            times.setdefault(bound, []).append(seconds)
    whole = sum(map(sum, times.values()))
    found = [Share(bound, len(rows), sum(rows), sum(rows) / whole) for bound, rows in times.items()]
    return tuple(sorted(found, key=lambda share: -share.seconds))


def roofline(profile: Profile) -> Plot | None:
    """Both axes logarithmic; None where no layer that multiplies was measured. Numbers are places in the order of
    execution, as in the table."""
    points = _points(profile)
    if profile.roof is None or not points:
        return None
    roof = profile.roof
    ridge = roof.flops / roof.bandwidth
    reach = [*(point.intensity for point in points), ridge / 2, ridge * 2]
    x = axis_for(reach, text.tick_decimal, log=True)
    slope = [(at, min(roof.flops, roof.bandwidth * at)) for at in (x.low, ridge, x.high)]
    y = axis_for(
        [value / 1e9 for value in (*(p.speed for p in points), *(v for _, v in slope))], text.tick_decimal, log=True
    )
    line = Line("the most that this machine can do", "level", path([(x.place(a), y.place(b / 1e9)) for a, b in slope]))
    numbers = _numbers(points, x, y)
    lines = [
        _line("bound by arithmetic", "first", [p for p in points if p.bound == "arithmetic"], numbers, x, y),
        _line("bound by memory", "second", [p for p in points if p.bound != "arithmetic"], numbers, x, y),
    ]
    slowest = sorted(points, key=lambda point: -point.seconds)[:NAMED]
    alt = "; ".join(_title(point) for point in slowest)
    return Plot(
        "Roofline",
        alt,
        x,
        y,
        "FLOP per byte moved, logarithmic",
        "GFLOP/s measured, logarithmic",
        (line, *(line for line in lines if line.marks)),
    )


def _points(profile: Profile) -> list[Point]:
    found = []
    for number, layer in enumerate(profile.layers, start=1):
        cost = profile.cost(layer)
        if profile.roof is None or cost is None or not cost.macs or not cost.seconds:
            continue
        work, bound = intensity(cost), profile.roof.bound(cost)
        if work and bound:
            found.append(Point(number, layer.name or MODEL, work, 2 * cost.macs / cost.seconds, cost.seconds, bound))
    return found


def _numbers(points: Sequence[Point], x: Axis, y: Axis) -> dict[int, Label]:
    """The slowest layers have their numbers, a crowd of points one above it all: layer → label."""
    found: dict[int, Label] = {}
    for point in sorted(points, key=lambda point: -point.seconds):
        here = _place(point, x, y)
        near = next(
            (n for n, other in found.items() if abs(other.x - here[0]) < 4 and abs(other.y - here[1]) < 9), None
        )
        if near is None:
            found[point.number] = Label(*here, str(point.number))
        else:
            found[near] = replace(found[near], y=max(found[near].y, here[1]))
    return found


def _line(name: str, style: str, points: Sequence[Point], numbers: dict[int, Label], x: Axis, y: Axis) -> Line:
    marks = tuple(Mark(*_place(point, x, y), _title(point)) for point in points)
    labels = tuple(numbers[point.number] for point in points if point.number in numbers)
    return Line(name, style, "", marks, labels)


def _place(point: Point, x: Axis, y: Axis) -> tuple[float, float]:
    return x.place(point.intensity), y.place(point.speed / 1e9)


def _title(point: Point) -> str:
    return (
        f"{point.number} {text.clean_line(point.name)}: {text.significant(point.intensity)} FLOP/byte, "
        f"{text.rate(point.speed, 'FLOP')}, {text.brief(point.seconds)}, bound by {point.bound}"
    )
