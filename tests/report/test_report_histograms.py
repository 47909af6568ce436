"""Small multiples: heights follow the counts, both sides share one axis, zeros are told apart."""

from __future__ import annotations

import re

from tersenet.core.record import Histogram
from tersenet.report.histograms import BINS, small_multiples


def steps(path: str) -> list[tuple[float, float]]:
    """(height above or below the middle, right edge) of each step."""
    return [(abs(50 - float(v)), float(h)) for v, h in re.findall(r"V([\d.]+)H([\d.]+)", path)]


def with_first(record, **sides):
    rows = (record.tensors[0].model_copy(update=sides), *record.tensors[1:])
    return record.model_copy(update={"tensors": rows})


def test_heights_are_proportional_to_counts(record):
    side = Histogram(low=-1, high=1, counts=(0, 10, 40, 20), zeros=30)
    small = small_multiples(with_first(record, before=side, after=side), 1)[0][0]
    assert steps(small.before) == [(0, 25), (12, 50), (48, 75), (24, 100)]
    assert steps(small.after) == steps(small.before)
    assert float(re.search(r"V([\d.]+)", small.before.split("H")[1])[1]) < 50
    assert float(re.search(r"V([\d.]+)", small.after.split("H")[1])[1]) > 50
    assert small.zeros.replace("\u00a0", " ") == "30 (30.0 %) → 30 (30.0 %)"
    assert small.zero == 50


def test_both_sides_share_one_axis(record):
    wide = Histogram(low=-2, high=2, counts=(1, 1))
    narrow = Histogram(low=-1, high=1, counts=(1, 1))
    small = small_multiples(with_first(record, before=wide, after=narrow), 1)[0][0]
    assert (small.low, small.high) == ("-2", "2")
    assert [edge for _, edge in steps(small.after)] == [50, 75]


def test_too_many_bins_are_merged_and_none_is_lost(record):
    side = Histogram(low=0, high=1, counts=(1,) * 1000)
    path = small_multiples(with_first(record, before=side, after=None), 1)[0][0].before
    assert len(steps(path)) <= BINS
    assert steps(path)[-1][1] == 100


def test_largest_are_chosen_and_the_rest_is_counted(record):
    shown, left_out = small_multiples(record, 2)
    assert [small.name for small in shown] == ["fc1.weight", "fc2.weight"]
    assert left_out == 1


def test_one_side_missing_is_said(record):
    small = small_multiples(with_first(record, before=None), 1)[0][0]
    assert small.before == ""
    assert small.zeros.startswith("not recorded → ")
