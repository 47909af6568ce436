"""Size against error: across the stages of one run, and across runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tersenet.core.record import Record, StageRow
from tersenet.report.axes import axis_for
from tersenet.report.names import run_name
from tersenet.report.plots import Label, Line, Mark, Plot, path
from tersenet.report.quality import qualities
from tersenet.report.text import decimal, percent, size, tick_decimal, tick_percent, tick_size


@dataclass(frozen=True)
class Spot:
    """A file's bytes and its error or loss, with a number that a table explains."""

    number: int
    name: str
    file_bytes: int
    value: float


def stage_plot(stages: Sequence[StageRow]) -> Plot | None:
    """One point per stage, numbered in order and joined by a line; None where fewer than two can be drawn."""
    by_error = any(stage.validation_error is not None for stage in stages)
    values = [stage.validation_error if by_error else stage.validation_loss for stage in stages]
    spots = [
        Spot(number, stage.name, stage.file_bytes, value)
        for number, (stage, value) in enumerate(zip(stages, values, strict=True), start=1)
        if value is not None
    ]
    name = "validation error" if by_error else "validation loss"
    return _plot(name, by_error, spots, joined=True) if len(spots) > 1 else None


def run_plot(records: Sequence[Record]) -> Plot | None:
    """One point per run, by the first measure that all runs have; None where there is none."""
    for choices in zip(*(qualities(record.figures) for record in records), strict=True):
        spots = [
            Spot(number, f"{run_name(record)}, seed {record.seed}", record.figures.file_bytes, choice.file)
            for number, (record, choice) in enumerate(zip(records, choices, strict=True), start=1)
            if choice.file is not None
        ]
        if len(spots) == len(records):
            return _plot(choices[0].name, choices[0].is_share, spots, joined=False)
    return None


def _plot(name: str, is_share: bool, spots: Sequence[Spot], *, joined: bool) -> Plot:
    sizes = [spot.file_bytes for spot in spots]
    x = axis_for(sizes, tick_size, log=min(sizes) > 0 and max(sizes) > 4 * min(sizes))
    # From zero, so that differences within the noise do not look like more.
    y = axis_for([spot.value for spot in spots], tick_percent if is_share else tick_decimal, zero=True)
    spell = percent if is_share else decimal
    places = [(x.place(spot.file_bytes), y.place(spot.value)) for spot in spots]
    titles = [f"{spot.number} {spot.name}: {size(spot.file_bytes)}, {name} {spell(spot.value)}" for spot in spots]
    marks = tuple(Mark(*place, title) for place, title in zip(places, titles, strict=True))
    labels = number_labels([(*place, str(spot.number)) for place, spot in zip(places, spots, strict=True)])
    line = Line(name, "first", path(places) if joined else "", marks, labels)
    x_title = "file size, logarithmic" if x.log else "file size"
    return Plot(f"{name.capitalize()} against file size", "; ".join(titles), x, y, x_title, name, (line,))


def number_labels(numbered: Sequence[tuple[float, float, str]]) -> tuple[Label, ...]:
    """A number above each point; points that lie closer than a label is wide and high share one."""
    labels: list[Label] = []
    for x, y, number in numbered:
        near = next((i for i, other in enumerate(labels) if abs(other.x - x) < 5 and abs(other.y - y) < 8), None)
        if near is None:
            labels.append(Label(x, y, number))
        else:
            labels[near] = Label(labels[near].x, max(y, labels[near].y), f"{labels[near].text}, {number}")
    return tuple(labels)
