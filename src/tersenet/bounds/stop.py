"""When to stop: what a further byte gains, and how far a curve of error against bytes is from its bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Point:
    """A file: its bytes, and its error (or loss, or any measure of which less is better)."""

    bytes: float
    error: float


def hull(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points worth having at some exchange rate of error against bytes, smallest first: the lower left of the
    convex hull. Along it error falls, and by ever less a byte. Raises ValueError without points."""
    if not points:
        raise ValueError("there are no points")
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.bytes, point.error)):
        if kept and point.error >= kept[-1].error:
            continue
        while len(kept) > 1 and _gain(kept[-2], kept[-1]) <= _gain(kept[-1], point):
            kept.pop()
        kept.append(point)
    return tuple(kept)


def marginals(points: Sequence[Point]) -> tuple[float, ...]:
    """Error that each further byte takes away, between neighbours of the hull; it falls from one to the next."""
    found = hull(points)
    return tuple(_gain(small, large) for small, large in pairwise(found))


def stop_at(points: Sequence[Point], price: float) -> Point:
    """The file with the least error + price · bytes: beyond it, a byte takes away no more error than `price` ≥ 0."""
    return min(hull(points), key=lambda point: (point.error + price * point.bytes, point.bytes))


def closest_to(points: Sequence[Point], bound: Callable[[float], float]) -> Point:
    """The file at which the curve comes closest to `bound` (bytes → least error), going up from the smallest.

    As long as a further byte takes away more error than it does of the bound, larger files come closer to what is
    possible. From the point returned on they no longer do: what is missing there is a better method, not more bytes.
    """
    found = hull(points)
    for small, large in pairwise(found):
        if small.error - large.error <= bound(small.bytes) - bound(large.bytes):
            return small
    return found[-1]


def gap(points: Sequence[Point], bound: Sequence[Point], price: float) -> float:
    """Bytes that any better method could save at most, at a `price` > 0 of error a byte.

    The difference between the least error + price · bytes of the points and of points on a bound, in bytes. A search
    may stop where this is as small as it cares about, whatever is still untried.
    """
    best, possible = (min(p.error + price * p.bytes for p in curve) for curve in (points, bound))
    return (best - possible) / price


def _gain(small: Point, large: Point) -> float:
    return (small.error - large.error) / (large.bytes - small.bytes)
