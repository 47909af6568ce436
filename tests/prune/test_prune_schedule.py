"""Schedules at points worked out by hand."""

import pytest

from tersenet.prune.schedule import Window, cubic, geometric


@pytest.mark.parametrize(
    ("progress", "sparsity"),
    # Zhu & Gupta, eq. 1, with s_i = 0.2 and s_f = 0.8: 0.8 − 0.6·(1 − p)³
    [(0.0, 0.2), (0.25, 0.546875), (0.5, 0.725), (0.75, 0.790625), (1.0, 0.8), (-1.0, 0.2), (2.0, 0.8)],
)
def test_cubic(progress, sparsity):
    assert cubic(progress, 0.2, 0.8) == pytest.approx(sparsity)


def test_geometric_keeps_the_same_share_each_time():
    kept = [1 - geometric(0.9, i, 3) for i in range(4)]
    assert kept == pytest.approx([1, 0.1 ** (1 / 3), 0.1 ** (2 / 3), 0.1])
    assert geometric(0.9, 3, 3) == 0.9, "the last one exactly"


def test_window():
    window = Window(0.1, 0.5, 3)
    assert [step for step in range(21) if window.due(step, 20)] == [2, 5, 8, 10]
    assert window.progress(2, 20) == 0 and window.progress(6, 20) == 0.5 and window.progress(10, 20) == 1
    assert window.progress(0, 20) == 0 and window.progress(20, 20) == 1


def test_window_of_an_empty_budget_is_over_at_once():
    assert Window(0, 0.75, 100).due(0, 0) and Window(0, 0.75, 100).progress(0, 0) == 1
