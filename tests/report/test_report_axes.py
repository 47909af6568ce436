"""Axes: every value lies on them, ticks are round and where they say."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tersenet.report.axes import Axis, axis_for
from tersenet.report.text import tick_decimal

finite = st.floats(allow_nan=False, allow_infinity=False)


def exact(value: float, step: float) -> str:
    return repr(value)


@given(st.lists(finite | st.integers(), max_size=20), st.booleans(), st.booleans())
def test_any_values_get_an_axis(values, log, zero):
    axis = axis_for(values, tick_decimal, log=log, zero=zero)
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 8
    places = [tick.at for tick in axis.ticks]
    assert places == sorted(places) and all(0 <= place <= 100 for place in places)
    assert all(0 <= axis.place(value) <= 100 for value in values)


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=20), st.booleans())
def test_order_is_kept_and_values_are_inside(values, log):
    axis = axis_for(values, exact, log=log)
    slack = 1e-6 * max(abs(axis.low), abs(axis.high))
    assert axis.low - slack <= min(values) and max(values) <= axis.high + slack
    ordered = sorted(values)
    assert [axis.place(value) for value in ordered] == sorted(axis.place(value) for value in values)


def test_linear_ticks_are_round_and_in_place():
    axis = axis_for([0.3, 7.4], exact)
    assert [tick.label for tick in axis.ticks] == ["0.0", "2.0", "4.0", "6.0", "8.0"]
    assert [tick.at for tick in axis.ticks] == [0, 25, 50, 75, 100]
    assert axis.place(7.4) == 92.5


def test_logarithmic_places_follow_the_logarithm():
    axis = axis_for([21_517, 533_600], exact, log=True)
    assert (axis.low, axis.high, axis.log) == (20_000, 1_000_000, True)
    expected = 100 * math.log(60_000 / 20_000) / math.log(50)
    assert abs(axis.place(60_000) - expected) < 0.01
    assert axis.place(0) == axis.place(-5) == 0


def test_logarithmic_falls_back_to_linear_at_zero():
    assert not axis_for([0, 10], exact, log=True).log


def test_zero_starts_the_axis_only_where_nothing_is_below():
    assert axis_for([5.0, 6.0], exact, zero=True).low == 0
    assert axis_for([5.0, 6.0], exact).low > 0
    assert axis_for([-5.0, 6.0], exact, zero=True).low <= -5


def test_place_cuts_off_at_the_ends():
    axis = Axis(0, 10, log=False)
    assert (axis.place(-1), axis.place(5), axis.place(11)) == (0, 50, 100)
