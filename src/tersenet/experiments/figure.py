"""The figure of a table: error of the file against its bytes or MACs, means over the seeds, published points beside; or
the course of training."""

from __future__ import annotations

import io
import statistics
from typing import Any

from tersenet.core.errors import RecipeError
from tersenet.experiments.table import Published, Row, Table

LABELS = {"file_bytes": "bytes of the file", "macs": "MACs of one image", "epochs": "epochs"}

Drawn = tuple[Row, list[dict[str, Any]]]
"""A row and its runs, as lines of the CSV."""


def figure_of(table: Table, rows: list[dict[str, Any]]) -> bytes | None:
    """An SVG, the same bytes for the same rows; None where there is nothing to draw.

    Rows of one series are joined by a line in the order of the table. Raises RecipeError without matplotlib.
    """
    drawn = [(row, [run for run in rows if run["row"] == row.name]) for row in table.rows]
    drawn = [(row, runs) for row, runs in drawn if runs]
    if not drawn:
        return None
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise RecipeError(
            "the figure of this table needs matplotlib; install it with pip install tersenet[figures]"
        ) from None
    with matplotlib.rc_context({"svg.hashsalt": "tersenet", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        (_curves if table.across == "epochs" else _points)(axes, table, drawn)
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
        axes.legend(fontsize=8)
        text = io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _points(axes: Any, table: Table, drawn: list[Drawn]) -> None:
    for number, (name, members) in enumerate(_series(drawn).items()):
        spots = [_mean(runs, table.across) for _, runs in members]
        style = "o-" if len(members) > 1 else "D"
        colour = f"C{number % 10}"
        axes.plot(*zip(*spots, strict=True), style, color=colour, markersize=5, linewidth=1.2, label=name)
        for (row, _), spot in zip(members, spots, strict=True):
            axes.annotate(row.mark, spot, (4, 4), textcoords="offset points", fontsize=7, color=colour)
    axes.set(xscale="log", xlabel=LABELS[table.across], ylabel="test error of the file, %", title=table.title)
    if table.across == "file_bytes":
        dense = statistics.fmean(100 * run["test_error_dense"] for _, runs in drawn for run in runs)
        axes.axhline(dense, color="0.5", linestyle="--", linewidth=0.8, label="dense, mean")
        _published(axes, [*(row.published for row, _ in drawn if row.published), *table.records])
        axes.set_ylim(0, min(1.05 * axes.get_ylim()[1], 6 * dense + 2))  # names of the highest points need room


def _curves(axes: Any, table: Table, drawn: list[Drawn]) -> None:
    """What `table.detail` says of each run: a figure for each epoch, comma between."""
    for number, (row, runs) in enumerate(drawn):
        for run in runs:
            values = [float(value) for value in run["detail"].split(", ")]
            label = row.name if run is runs[0] else None
            axes.plot(range(1, len(values) + 1), values, "o-", color=f"C{number}", markersize=4, label=label)
    axes.set(xlabel=LABELS[table.across], ylabel=table.head, title=table.title)


def _series(drawn: list[Drawn]) -> dict[str, list[Drawn]]:
    found: dict[str, list[Drawn]] = {}
    for row, runs in drawn:
        found.setdefault(row.series or row.name, []).append((row, runs))
    return found


def _mean(runs: list[dict[str, Any]], across: str) -> tuple[float, float]:
    """(bytes or MACs, percent)."""
    return (
        statistics.fmean(run[across] for run in runs),
        100 * statistics.fmean(run["test_error_file"] for run in runs),
    )


def _published(axes: Any, papers: list[Published]) -> None:
    """What papers state with both figures; names below and above in turn, the last to the left of its point."""
    known = [(paper.bytes, 100 * paper.error, paper.source) for paper in papers if paper.bytes and paper.error]
    spots = sorted(set(known))
    for number, (size, error, source) in enumerate(spots):
        axes.plot(size, error, "kx", markersize=6)
        last = number == len(spots) - 1
        aside = {"xytext": (-5 if last else 5, 5 if number % 2 else -8), "ha": "right" if last else "left"}
        axes.annotate(source, (size, error), textcoords="offset points", fontsize=7, **aside)
