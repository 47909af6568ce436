"""Stopping on synthetic curves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.bounds import Point, closest_to, gap, hull, marginals, stop_at

POINTS = st.lists(st.builds(Point, st.integers(1, 10_000), st.floats(0, 1)), min_size=1, max_size=20)


def curve(scale: float, sizes: range) -> list[Point]:
    """error = exp(−bytes / scale)."""
    return [Point(size, math.exp(-size / scale)) for size in sizes]


@settings(deadline=None, max_examples=30)
@given(POINTS, st.floats(0, 1))
def test_the_hull_holds_every_best_choice(points, price):
    chosen = stop_at(points, price)
    least = min(p.error + price * p.bytes for p in points)
    assert chosen.error + price * chosen.bytes == pytest.approx(least)


@settings(deadline=None, max_examples=30)
@given(POINTS)
def test_the_hull_is_convex(points):
    found = hull(points)
    assert set(found) <= set(points)
    assert list(found) == sorted(found, key=lambda p: p.bytes)
    gains = marginals(points)
    assert all(gain > 0 for gain in gains) and list(gains) == sorted(gains, reverse=True)
    assert found[0].bytes == min(p.bytes for p in points) and found[-1].error == min(p.error for p in points)


def test_stop_where_a_byte_is_no_longer_worth_it():
    points = curve(1000, range(0, 10_000, 10))
    price = 1e-5  # exp(−b/1000)/1000 = 1e-5 at b = 1000·ln 100
    assert stop_at(points, price).bytes == pytest.approx(1000 * math.log(100), abs=10)
    assert stop_at(points, 1.0).bytes == 0
    assert stop_at(points, 0.0).bytes == 9990


def test_closest_to_the_bound_is_where_the_slopes_meet():
    """exp(−b/2000) over exp(−b/1000): apart most where the slopes are equal, b = 2000·ln 2, and closer ever after."""
    points = curve(2000, range(0, 20_000, 10))

    def bound(size: float) -> float:
        return math.exp(-size / 1000)

    assert closest_to(points, bound).bytes == 0  # from 0, the bound falls faster at once
    after = [p for p in points if p.bytes >= 2000 * math.log(2)]
    assert closest_to(after, bound).bytes == points[-1].bytes  # and then more slowly, to the end
    flat = [Point(p.bytes, p.error + 1e-6 * p.bytes) for p in after]
    chosen = closest_to(flat, bound)
    apart = min(hull(flat), key=lambda p: p.error - bound(p.bytes))
    assert chosen.bytes == pytest.approx(apart.bytes, abs=10)


def test_gap_in_bytes():
    bound = curve(1000, range(0, 10_000, 10))
    behind = [Point(p.bytes + 250, p.error) for p in bound]
    assert gap(behind, bound, 1e-5) == pytest.approx(250)
    assert gap(bound, bound, 1e-5) == 0


def test_no_points():
    with pytest.raises(ValueError, match="no points"):
        hull([])
