"""Size against error, and the spread over seeds (against the statistics module)."""

from __future__ import annotations

import statistics

from tersenet.report.scatter import run_plot, stage_plot
from tersenet.report.spread import seed_groups


def variant(record, seed=1, figures=None, **update):
    recipe = {**record.recipe, "seed": seed}
    changed = record.figures.model_copy(update=figures or {})
    return record.model_copy(update={"recipe": recipe, "seed": seed, "figures": changed, **update})


def test_one_point_per_stage_in_order(record):
    plot = stage_plot(record.stages)
    line = plot.lines[0]
    assert [mark.title.split(":")[0] for mark in line.marks] == ["1 dense", "2 prune.magnitude", "3 quantize.share"]
    assert [mark.x for mark in line.marks] == [plot.x.place(stage.file_bytes) for stage in record.stages]
    assert [mark.y for mark in line.marks] == [plot.y.place(stage.validation_error) for stage in record.stages]
    assert plot.x.log and plot.y.low == 0
    assert [label.text for label in line.labels] == ["1", "2", "3"]


def test_loss_where_there_is_no_error(record):
    stages = [stage.model_copy(update={"validation_error": None}) for stage in record.stages]
    assert stage_plot(stages).y_title == "validation loss"
    assert stage_plot([stage.model_copy(update={"validation_loss": None}) for stage in stages]) is None


def test_runs_are_compared_by_what_all_have(record):
    untested = variant(record, figures={"test_error_file": None, "test_loss_file": None})
    assert run_plot([record, record]).y_title == "test error"
    assert run_plot([record, untested]).y_title == "validation error"
    unmeasured = variant(
        record, figures={"test_error_file": None, "test_loss_file": None, "validation_error_file": None}
    )
    assert run_plot([record, unmeasured]) is None


def test_points_too_close_share_a_label(record):
    far = variant(record, figures={"file_bytes": 200_000})
    labels = run_plot([record, record, far]).lines[0].labels
    assert [label.text for label in labels] == ["1, 2", "3"]


def test_seeds_of_one_recipe(record):
    sizes, errors = (26_000, 26_600, 27_400), (0.0152, 0.0160, 0.0163)
    runs = [
        variant(record, seed, {"file_bytes": size, "test_error_file": error})
        for seed, (size, error) in enumerate(zip(sizes, errors, strict=True))
    ]
    (group,) = seed_groups([*runs, variant(record, 5, recipe_hash="other", data_digest="elsewhere")])
    assert group.numbers == (1, 2, 3) and group.seeds == (0, 1, 2)
    assert group.file_bytes == f"{statistics.mean(sizes):,.0f} ± {statistics.stdev(sizes):,.0f} bytes"
    mean, deviation = 100 * statistics.mean(errors), 100 * statistics.stdev(errors)
    assert group.quality.replace("\u00a0", " ") == f"test error {mean:.2f} % ± {deviation:.2f} %"


def test_a_repeated_seed_or_another_recipe_is_no_second_seed(record):
    other = record.model_copy(update={"recipe": {**record.recipe, "code": {"coder": "huffman"}, "seed": 2}, "seed": 2})
    assert seed_groups([record, record, other]) == ()
