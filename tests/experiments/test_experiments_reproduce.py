"""A table of the literature is run once for each seed, goes on where it stopped, and shows a miss as what it is."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from tersenet.core.errors import RecipeError
from tersenet.core.load import load_recipe
from tersenet.experiments import TABLES
from tersenet.experiments.figure import _curves, figure_of
from tersenet.experiments.page import page_of, percent
from tersenet.experiments.reproduce import reproduce
from tersenet.experiments.table import Published, Row, Table
from tersenet.flow.prepare import prepare_model, register_methods
from tersenet.flow.progress import Quiet
from tersenet.forms import check_order

HERE = Path(__file__).parents[2]

RECIPE = """
model: {name: lenet_300_100, kwargs: {inputs: 64, hidden: [16, 8]}}
data: digits
train: {epochs: 2}
stages:
  - {method: prune.magnitude, sparsity: 0.5, finetune: {epochs: 1}}
"""

TOY = Table(
    title="A toy",
    data="none",
    rows=(
        Row("small", "toy.yaml", "Pruned.", seeds=(0, 1), published=Published("a paper", 0.01, 1000, 3)),
        Row("random", "toy.yaml", "Control.", overrides=("stages.0.criterion=random",), seeds=(0,)),
    ),
)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/toy.yaml").write_text(RECIPE)
    monkeypatch.setitem(TABLES._entries, "toy", TOY)
    return tmp_path


class Spoken(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, sentence: str) -> None:
        self.lines.append(sentence)

    def epoch(self, log: object) -> None:
        self.lines.append("epoch")


def test_every_row_and_seed_is_run_once_and_the_dense_net_is_shared(clone: Path) -> None:
    spoken = Spoken()
    rows = reproduce("toy", None, clone / "out", None, spoken)
    assert [(row["row"], row["seed"]) for row in rows] == [("small", 0), ("small", 1), ("random", 0)]
    epochs = spoken.lines.count("epoch")
    assert epochs == 2 * (2 + 1) + 1, "the control shares the dense training of seed 0"
    again = Spoken()
    assert reproduce("toy", None, clone / "out", None, again) == rows
    assert again.lines == []
    with (clone / "results/toy.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [int(row["file_bytes"]) for row in written] == [
        (clone / f"out/{row['row']}/seed-{row['seed']}/model.terse").stat().st_size for row in written
    ]
    page = (clone / "docs/results/toy.md").read_text()
    assert "| small | 2 |" in page
    assert "1.00 %, 1,000 bytes, 3× (a paper)" in page
    assert "| random | 1 |" in page
    assert "control" in page


def test_a_changed_recipe_is_run_again(clone: Path) -> None:
    reproduce("toy", None, clone / "out", "random", Quiet())
    (clone / "recipes/toy.yaml").write_text(RECIPE.replace("0.5", "0.6"))
    spoken = Spoken()
    reproduce("toy", None, clone / "out", "random", spoken)
    assert spoken.lines.count("epoch") == 1


def test_what_is_finished_is_written_although_the_next_run_is_stopped(clone: Path) -> None:
    class Stopped(Spoken):
        def say(self, sentence: str) -> None:
            if "seed 1" in sentence:
                raise KeyboardInterrupt

    for _ in range(2):  # the second time there is nothing to run before it
        with pytest.raises(KeyboardInterrupt):
            reproduce("toy", None, clone / "out", "small", Stopped())
        assert len((clone / "results/toy.csv").read_text().splitlines()) == 2
        assert "| small | 1 |" in (clone / "docs/results/toy.md").read_text()
        (clone / "results/toy.csv").unlink()
        (clone / "docs/results/toy.md").unlink()


def test_results_of_other_folders_stay_as_long_as_their_recipes(clone: Path) -> None:
    reproduce("toy", None, clone / "out", "small", Quiet())
    first = (clone / "results/toy.csv").read_bytes().splitlines()
    rows = reproduce("toy", None, clone / "elsewhere", "random", Quiet())
    assert [row["row"] for row in rows] == ["small", "small", "random"]
    assert (clone / "results/toy.csv").read_bytes().splitlines()[:3] == first, "kept to the letter"
    whole, page = (clone / "results/toy.csv").read_bytes(), (clone / "docs/results/toy.md").read_bytes()
    reproduce("toy", None, clone / "out", "random", Quiet())
    assert (clone / "docs/results/toy.md").read_bytes().count(b"| 2 |") == page.count(b"| 2 |") == 1
    assert len((clone / "results/toy.csv").read_bytes().splitlines()) == len(whole.splitlines())
    (clone / "recipes/toy.yaml").write_text(RECIPE.replace("0.5", "0.6"))
    assert [row["row"] for row in reproduce("toy", None, clone / "out", "random", Quiet())] == ["random"]


def test_what_is_wrong_is_said(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="matches no row"):
        reproduce("toy", None, clone / "out", "nothing*", Quiet())
    monkeypatch.chdir(clone / "recipes")
    with pytest.raises(RecipeError, match="clone"):
        reproduce("toy", None, clone / "out", None, Quiet())


def test_means_and_spread_are_those_of_the_definition() -> None:
    assert percent([0.01, 0.02, 0.03]) == "2.00 ± 1.00 %"
    assert percent([0.0158]) == "1.58 %"
    assert percent([]) == "–"


def test_a_row_that_was_not_run_says_so() -> None:
    assert "| small | 0 | – |" in page_of("toy", TOY, [])


@pytest.mark.parametrize("recipe", sorted((HERE / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_fits_its_model_and_says_its_command(recipe: Path) -> None:
    register_methods()
    plain = load_recipe(recipe)
    check_order(plain.stages, prepare_model(plain))
    assert f"tersenet compress {recipe.relative_to(HERE)}" in recipe.read_text().splitlines()[0]


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_names_recipes_that_are_there(name: str) -> None:
    register_methods()
    rows = TABLES[name].rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        load_recipe(HERE / "recipes" / row.recipe, row.overrides)


COURSES = replace(TOY, figure=True, across="epochs", head="validation error, %")
COURSE_ROWS = [
    {"row": row, "seed": seed, "detail": detail}
    for row, seed, detail in (
        ("small", 0, "3.00, 2.00, 1.00"),
        ("small", 1, "4.00, 3.00, 2.00"),
        ("random", 0, "9.00, 8.00"),
    )
]


def test_the_course_of_every_run_is_a_line_and_those_of_a_row_are_of_one_colour() -> None:
    axes = Mock()
    _curves(axes, COURSES, [(COURSES.rows[0], COURSE_ROWS[:2]), (COURSES.rows[1], COURSE_ROWS[2:])])
    drawn = [list(zip(*call.args[:2], strict=True)) for call in axes.plot.call_args_list]
    assert drawn == [[(1, 3), (2, 2), (3, 1)], [(1, 4), (2, 3), (3, 2)], [(1, 9), (2, 8)]]
    first, second, third = (call.kwargs for call in axes.plot.call_args_list)
    assert first["color"] == second["color"] != third["color"]
    assert [line["label"] for line in (first, second, third)] == ["small", None, "random"]


def test_the_figure_of_courses_is_the_same_for_the_same_rows() -> None:
    pytest.importorskip("matplotlib")
    assert figure_of(COURSES, []) is None
    drawn = figure_of(COURSES, COURSE_ROWS)
    assert drawn == figure_of(COURSES, COURSE_ROWS)
    assert all(f">{text}</text>".encode() in drawn for text in ("small", "random", "epochs", "A toy"))
