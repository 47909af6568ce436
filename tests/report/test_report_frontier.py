"""The curve of error against bytes with published records and a bound."""

from __future__ import annotations

from tersenet.report.frontier import frontier_plot
from tersenet.report.scatter import Spot

ACHIEVED = [Spot(2, "λ = 0.05", 2600, 0.0093), Spot(1, "λ = 0.15", 1700, 0.0129)]
PUBLISHED = [Spot(3, "EPR", 2840, 0.0100), Spot(4, "Deep Compression", 44_000, 0.0074)]


def test_three_lines():
    plot = frontier_plot(ACHIEVED, PUBLISHED, [(1800, 0.012), (10, 0.9), (3000, 0.004), (10**9, 0.0)])
    achieved, published, bound = plot.lines
    assert [mark.title.replace("\u00a0", " ") for mark in achieved.marks] == [
        "1 λ = 0.15: 1,700 bytes, error 1.29 %",
        "2 λ = 0.05: 2,600 bytes, error 0.93 %",
    ]
    assert achieved.path.startswith("M") and achieved.path.count("L") == 1
    assert published.path == "" and [label.text for label in published.labels] == ["3", "4"]
    assert bound.marks == () and bound.path.count("L") == 1  # the two points inside
    assert [mark.x for mark in published.marks] == [plot.x.place(2840), plot.x.place(44_000)]
    assert plot.x.log and plot.y.low == 0


def test_with_less():
    assert frontier_plot([]) is None
    assert [line.name for line in frontier_plot(ACHIEVED).lines] == ["achieved"]
    assert "EPR" in frontier_plot(ACHIEVED, PUBLISHED).alt
