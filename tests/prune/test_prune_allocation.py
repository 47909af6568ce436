"""Which units go, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.prune.allocation import Widths, by_share, by_threshold, lowest, normalised, together, within

groups = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=4
).map(lambda found: {name: np.array(scores, float) for name, scores in found.items()})


def widths(scores, **options):
    return Widths({name: len(found) for name, found in scores.items()}, **options)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.data())
def test_the_lowest_go_and_of_equals_the_later(scores, data):
    count = data.draw(st.integers(0, len(scores)))
    order = sorted(range(len(scores)), key=lambda unit: (scores[unit], -unit))
    assert lowest(np.array(scores, float), count).tolist() == sorted(order[:count])


@settings(max_examples=200)
@given(groups, st.integers(0, 40), st.sampled_from([0.0, 0.3, 0.5]))
def test_together_is_one_ranking_of_all_units_that_may_go(scores, gone, share):
    allowed = widths(scores, share=share)
    counts = together(scores, allowed, gone)
    free = {name: len(found) - max(1, int(np.ceil(share * len(found) - 1e-9))) for name, found in scores.items()}
    assert sum(counts.values()) == min(gone, sum(free.values()))
    assert all(0 <= counts[name] <= free[name] for name in scores)
    went = [score for name in scores for score in np.sort(scores[name])[: counts[name]]]
    next_ones = [np.sort(scores[name])[counts[name]] for name in scores if counts[name] < free[name]]
    assert not went or not next_ones or max(went) <= min(next_ones)


@pytest.mark.parametrize(
    ("units", "keep", "multiple", "share", "gone"),
    [
        (64, 32, 1, 0, 32),
        (64, 33, 8, 0, 24),  # 40 stay
        (10, 9, 8, 0, 0),  # 16 would have to stay: all do
        (10, 0, 1, 0, 9),
        (10, 2, 1, 0.5, 5),
        (12, 0, 4, 0, 8),
    ],
)
def test_widths(units, keep, multiple, share, gone):
    assert Widths({"a": units}, share, multiple).gone("a", units, keep) == gone


def test_shares_are_of_the_original_widths():
    """After a first round, `ratio` says how much is gone since the start."""
    scores = {"a": np.arange(6.0), "b": np.arange(10.0)}
    assert by_share(scores, Widths({"a": 8, "b": 10}), {"a": 0.5, "b": 0.5}) == {"a": 2, "b": 5}
    assert by_share(scores, Widths({"a": 8, "b": 10}), {"a": 0.1, "b": 0.9}) == {"a": 0, "b": 9}


def test_what_is_below_the_threshold_goes():
    scores = {"a": np.array([0.5, 2, 1, 0.9]), "b": np.array([0.1, 0.2])}
    assert by_threshold(scores, widths(scores), {"a": 1.0, "b": 1.0}) == {"a": 2, "b": 1}


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(0, 25))
def test_the_first_step_within_the_budget(costs, budget):
    costs = sorted(costs, reverse=True)
    found = within(budget, len(costs) - 1, lambda step: {"step": step}, lambda counts: costs[counts["step"]])
    fitting = [step for step, cost in enumerate(costs) if cost <= budget]
    assert found["step"] == (fitting[0] if fitting else len(costs) - 1)


def test_normalised_scores():
    scores = {"a": np.array([3.0, 4.0]), "b": np.array([0.0, 0.0])}
    assert normalised(scores, "l2")["a"].tolist() == [0.6, 0.8]
    assert normalised(scores, "mean")["a"].tolist() == [3 / 3.5, 4 / 3.5]
    assert normalised(scores, "l2")["b"].tolist() == [0, 0]
