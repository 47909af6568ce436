"""The training curve: phases follow one another on one axis, each epoch at its place."""

from __future__ import annotations

from tersenet.core.record import Epoch
from tersenet.report.training import DRAWN, curve


def epochs(*plan: tuple[str, int], error: float | None = 0.1) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(phase=phase, epoch=epoch, train_loss=1.0 / epoch, validation_error=error, lr=0.1)
        for phase, count in plan
        for epoch in range(1, count + 1)
    )


def places(record, plan) -> list[float]:
    return [moment.x for moment in curve(record.model_copy(update={"epochs": plan})).moments]


def test_phases_follow_one_another(record):
    found = curve(record)
    assert [moment.x for moment in found.moments] == list(range(1, 39))
    assert [(phase.letter, phase.name, phase.start, phase.end) for phase in found.phases] == [
        ("A", "train", 0, 20),
        ("B", "1 prune.magnitude", 20, 32),
        ("C", "2 quantize.share", 32, 38),
    ]
    assert found.phases[2].epochs == "6 epochs"


def test_a_stage_that_trains_several_times_stays_one_phase(record):
    plan = epochs(("train", 2), ("1 prune.magnitude", 1), ("1 prune.magnitude", 1), ("1 prune.magnitude", 2))
    found = curve(record.model_copy(update={"epochs": plan}))
    assert [moment.x for moment in found.moments] == [1, 2, 3, 4, 5, 6]
    assert [(phase.start, phase.end) for phase in found.phases] == [(0, 2), (2, 6)]


def test_fractions_of_an_epoch(record):
    plan = (
        Epoch(phase="train", epoch=0.5, train_loss=1, lr=0.1),
        Epoch(phase="1 prune.magnitude", epoch=1.0, train_loss=1, lr=0.1),
    )
    assert places(record, plan) == [0.5, 1.5]


def test_bands_and_points_lie_where_the_axis_says(record):
    error, loss = curve(record).plots
    assert [(band.start, round(band.start + band.width, 2)) for band in error.bands] == [
        (0, 52.63),
        (52.63, 84.21),
        (84.21, 100),
    ]
    first = error.lines[0].marks[0]
    assert first.x == round(100 / 38, 2)
    assert first.y == error.y.place(record.epochs[0].validation_error)
    assert first.title.startswith("train, epoch 1: validation error 7.")
    assert [line.name for line in loss.lines] == ["training loss", "validation loss"]
    assert loss.y.log and len(loss.lines[0].marks) == 38


def test_alt_text_has_first_lowest_and_last(record):
    errors = [epoch.validation_error for epoch in record.epochs]
    alt = curve(record).plots[0].alt.replace("\u00a0", " ")
    assert f"first {100 * errors[0]:.2f} %" in alt
    assert f"lowest {100 * min(errors):.2f} %" in alt
    assert f"last {100 * errors[-1]:.2f} %" in alt


def test_without_validation_only_the_loss_is_drawn(record):
    plots = curve(record.model_copy(update={"epochs": epochs(("train", 3), error=None)})).plots
    assert [plot.caption for plot in plots] == ["Loss"]


def test_a_gap_breaks_the_line(record):
    plan = list(epochs(("train", 4)))
    plan[1] = plan[1].model_copy(update={"validation_error": None})
    line = curve(record.model_copy(update={"epochs": tuple(plan)})).plots[0].lines[0]
    assert line.path.count("M") == 2 and len(line.marks) == 3


def test_many_epochs_are_thinned_and_the_last_one_stays(record):
    found = curve(record.model_copy(update={"epochs": epochs(("train", 5000))}))
    assert found.every == 13 and len(found.moments) <= DRAWN + 1
    assert found.moments[-1].x == 5000
    assert not found.plots[0].lines[0].marks


def test_nothing_trained(record):
    found = curve(record.model_copy(update={"epochs": ()}))
    assert (found.plots, found.phases) == ((), ())


def test_more_phases_than_letters(record):
    plan = epochs(*((f"{number} prune.magnitude", 1) for number in range(60)))
    found = curve(record.model_copy(update={"epochs": plan}))
    assert [found.phases[place].letter for place in (25, 26, 27, 51, 52)] == ["Z", "AA", "AB", "AZ", "BA"]
    assert found.plots[0].bands == ()
