"""The training curve: all phases one after the other, with the boundaries between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from tersenet.core.record import Epoch, Record
from tersenet.report.axes import Axis, Tick, axis_for, bounded
from tersenet.report.plots import Band, Line, Mark, Plot, path
from tersenet.report.text import decimal, percent, tick_decimal, tick_percent

DRAWN = 400
"""At most about so many epochs are drawn and listed, spread evenly."""
DOTTED = 150
"""With more epochs than this, the line goes without a dot for each."""

BANDS = 30
"""With more phases than this, their boundaries are not drawn."""


@dataclass(frozen=True)
class Moment:
    """One epoch and where it lies on the common axis of all phases, in epochs."""

    x: float
    epoch: Epoch


@dataclass(frozen=True)
class PhaseOf:
    """One phase of training; `letter` stands for it in the plots."""

    letter: str
    name: str
    start: float
    end: float

    @property
    def epochs(self) -> str:
        return f"{decimal(self.end - self.start)} {'epoch' if self.end - self.start == 1 else 'epochs'}"


@dataclass(frozen=True)
class Curve:
    """What the training section shows. `every`: only each n-th epoch is shown."""

    phases: tuple[PhaseOf, ...]
    plots: tuple[Plot, ...]
    moments: tuple[Moment, ...]
    every: int


def curve(record: Record) -> Curve:
    """Plots of validation error and of loss over all phases; empty where nothing was trained."""
    moments = _on_one_axis(record.epochs)
    phases = _phases(moments)
    every = max(1, -(-len(moments) // DRAWN))
    shown = tuple(moment for place, moment in enumerate(moments) if place % every == 0 or moment is moments[-1])
    plots = (_error(shown, phases), _loss(shown, phases)) if shown else ()
    return Curve(phases, tuple(plot for plot in plots if plot), shown, every)


def _on_one_axis(epochs: Sequence[Epoch]) -> tuple[Moment, ...]:
    """Each phase, and each training within one, counts from the start; here they follow one another."""
    moments = []
    offset = last = 0.0
    phase = None
    for epoch in epochs:
        here = bounded(epoch.epoch)
        if here <= last or (epoch.phase != phase and here <= 1):
            offset, last = offset + last, 0.0
        moments.append(Moment(offset + here, epoch))
        phase, last = epoch.phase, max(here, 0.0)
    return tuple(moments)


def _phases(moments: Sequence[Moment]) -> tuple[PhaseOf, ...]:
    found = []
    start = 0.0
    for place, (name, group) in enumerate(groupby(moments, key=lambda moment: moment.epoch.phase)):
        end = max(start, *(moment.x for moment in group), start)
        found.append(PhaseOf(_letter(place), name, start, end))
        start = end
    return tuple(found)


def _letter(place: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    return (_letter(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)


def _error(moments: Sequence[Moment], phases: Sequence[PhaseOf]) -> Plot | None:
    values = [moment.epoch.validation_error for moment in moments]
    known = [value for value in values if value is not None]
    if not known:
        return None
    y = axis_for(known, tick_percent, zero=True, log=_wide(known))
    x = _epochs(moments)
    line = _line("validation error", "first", moments, values, (x, y), percent)
    alt = f"Validation error over {_many(x)}: first {percent(known[0])}, lowest {percent(min(known))}, "
    alt += f"last {percent(known[-1])}"
    return Plot("Validation error", alt, x, y, "epochs, all phases", _scale("error", y), (line,), _bands(phases, x))


def _loss(moments: Sequence[Moment], phases: Sequence[PhaseOf]) -> Plot:
    train = [moment.epoch.train_loss for moment in moments]
    held_out = [moment.epoch.validation_loss for moment in moments]
    known = [value for value in (*train, *held_out) if value is not None]
    x, y = _epochs(moments), axis_for(known, tick_decimal, zero=True, log=_wide(known))
    lines = [_line("training loss", "second", moments, train, (x, y), decimal)]
    if any(value is not None for value in held_out):
        lines.append(_line("validation loss", "first", moments, held_out, (x, y), decimal))
    alt = f"Loss over {_many(x)}: training loss first {decimal(train[0])}, last {decimal(train[-1])}"
    return Plot("Loss", alt, x, y, "epochs, all phases", _scale("loss", y), tuple(lines), _bands(phases, x))


def _wide(values: Sequence[float]) -> bool:
    """Whether a linear axis would flatten the end of the curve."""
    return min(values) > 0 and max(values) / min(values) > 8


def _scale(name: str, axis: Axis) -> str:
    return f"{name}, logarithmic" if axis.log else name


def _epochs(moments: Sequence[Moment]) -> Axis:
    """From 0 to the last epoch, with nothing after it."""
    end = max(moment.x for moment in moments)
    if end <= 0:
        return axis_for((0.0, 1.0), tick_decimal, zero=True)
    exact = Axis(0.0, end, log=False)
    rounded = axis_for((0.0, end), tick_decimal, zero=True)
    steps = len(rounded.ticks) - 1
    values = [rounded.high * place / steps for place in range(steps + 1)]
    return Axis(0.0, end, False, tuple(Tick(exact.place(v), decimal(v)) for v in values if v <= end * (1 + 1e-9)))


def _many(x: Axis) -> str:
    return f"{decimal(x.high)} epochs"


def _bands(phases: Sequence[PhaseOf], x: Axis) -> tuple[Band, ...]:
    if len(phases) > BANDS:
        return ()
    places = [x.place(phases[0].start), *(x.place(phase.end) for phase in phases)]
    return tuple(
        Band(start, round(end - start, 2), phase.letter if end - start > 3 else "", f"{phase.name}, {phase.epochs}")
        for phase, (start, end) in zip(phases, pairwise(places), strict=True)
    )


def _line(
    name: str,
    style: str,
    moments: Sequence[Moment],
    values: Sequence[float | None],
    axes: tuple[Axis, Axis],
    spell: Callable[[float | None], str],
) -> Line:
    """The line and, unless they would run into each other, a dot per epoch."""
    x, y = axes
    places = [
        None if value is None else (x.place(moment.x), y.place(value))
        for moment, value in zip(moments, values, strict=True)
    ]
    marks = tuple(
        Mark(*place, f"{moment.epoch.phase}, epoch {decimal(moment.epoch.epoch)}: {name} {spell(value)}")
        for place, moment, value in zip(places, moments, values, strict=True)
        if place is not None and len(moments) <= DOTTED
    )
    return Line(name, style, path(places), marks)
