"""Run the rows of a table, once for each seed, and write them beside what was published."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tersenet.core.disk import replace_file
from tersenet.core.errors import RecipeError
from tersenet.core.load import load_recipe
from tersenet.core.recipe import Recipe
from tersenet.core.record import Record
from tersenet.experiments.figure import figure_of
from tersenet.experiments.page import page_of
from tersenet.experiments.table import TABLES, Row, Table, matching
from tersenet.flow.prepare import prepare, register_methods
from tersenet.flow.progress import Progress
from tersenet.flow.run import run
from tersenet.report import load_record, write_page

RECIPES = Path("recipes")
RESULTS = Path("results")
TEXTS = {"row", "data", "detail", "published_detail", "source", "recipe", "overrides", "recipe_hash", "file_digest"}
TEXTS |= {"machine", "torch"}
"""Columns of the CSV that are not numbers."""


def reproduce(name: str, data: Path | None, out: Path, only: str | None, progress: Progress) -> list[dict[str, Any]]:
    """All runs of a table as plain rows; a run that is finished in `out` is read, one that was stopped is resumed.

    Writes `results/NAME.csv` and `docs/results/NAME.md` after each run. Runs that were not asked for are taken from
    `out`, and what is not there from the results as they were, as long as the recipe is the same.
    Raises RecipeError if it is not called where the recipes are, or no row matches `only`.
    """
    register_methods()
    table = TABLES[name]
    if not RECIPES.is_dir():
        raise RecipeError("reproduce works in a clone of tersenet: there is no folder 'recipes' here")
    chosen = matching(table, only)
    if not chosen:
        raise RecipeError(
            f"--only {only}: matches no row of {name}; there are: {', '.join(r.name for r in table.rows)}"
        )
    rows = written(name, table, data, out)
    for row in chosen:
        for seed in row.seeds:
            recipe, folder = recipe_of(table, row, seed, data), folder_of(row, seed, out)
            if record_in(folder, recipe) is None:
                progress.say(f"== {row.name}, seed {seed}")
                once(recipe, folder, out / "checkpoints", progress)
                rows = written(name, table, data, out)
    return rows


def written(name: str, table: Table, data: Path | None, out: Path) -> list[dict[str, Any]]:
    """What is known so far, which is also on disk now: a table takes hours, and may be stopped."""
    path = RESULTS / f"{name}.csv"
    before = earlier(path)
    runs = [(row, seed) for row in table.rows for seed in row.seeds]
    rows = [found for row, seed in runs if (found := known(table, row, seed, data, out, before))]
    if rows:
        docs = Path("docs/results")
        RESULTS.mkdir(exist_ok=True)
        docs.mkdir(parents=True, exist_ok=True)
        replace_file(path, as_csv(rows).encode())
        replace_file(docs / f"{name}.md", page_of(name, table, rows).encode())
        if table.figure and (drawn := figure_of(table, rows)):
            replace_file(docs / f"{name}.svg", drawn)
    return rows


def recipe_of(table: Table, row: Row, seed: int, data: Path | None) -> Recipe:
    folder = [f"data.path={data / table.data}"] if data else []
    return load_recipe(RECIPES / row.recipe, [*row.overrides, *folder, f"seed={seed}"])


def folder_of(row: Row, seed: int, out: Path) -> Path:
    return out / row.name / f"seed-{seed}"


def once(recipe: Recipe, folder: Path, checkpoints: Path, progress: Progress) -> None:
    model, splits = prepare(recipe)
    record = run(recipe, model, splits, folder, resume=True, checkpoints=checkpoints, progress=progress).record
    write_page([record], folder / "report.html")


def record_in(folder: Path, recipe: Recipe) -> Record | None:
    if not (folder / "record.json").exists():
        return None
    record = load_record(folder)
    return record if record.recipe_hash == recipe.digest() else None


def known(
    table: Table, row: Row, seed: int, data: Path | None, out: Path, before: Mapping[tuple[str, str], dict[str, Any]]
) -> dict[str, Any] | None:
    recipe = recipe_of(table, row, seed, data)
    record = record_in(folder_of(row, seed, out), recipe)
    if record is not None:
        return line(table, row, record)
    found = before.get((row.name, recipe.digest()))
    return found and found | stated(row)


def earlier(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Lines of the CSV by row and digest of the recipe, of which the seed is a part."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        lines = [{key: value(key, text) for key, text in one.items()} for one in csv.DictReader(file)]
    return {(one["row"], one["recipe_hash"]): one for one in lines}


def value(key: str, text: str) -> Any:
    """As it was before `as_csv`."""
    if not text:
        return "" if key == "overrides" else None
    return text if key in TEXTS else json.loads(text)


def line(table: Table, row: Row, record: Record) -> dict[str, Any]:
    """One run as a row of the CSV."""
    figures = record.figures
    return {
        "row": row.name,
        "seed": record.seed,
        "data": record.data,
        "test_error_dense": figures.test_error_dense,
        "test_error_file": figures.test_error_file,
        "validation_error_dense": figures.validation_error_dense,
        "validation_error_file": figures.validation_error_file,
        "file_bytes": figures.file_bytes,
        "ratio": round(figures.ratio, 2),
        "parameters": figures.parameters,
        "nonzero": figures.nonzero,
        "macs": figures.macs,
        "macs_nonzero": figures.macs_nonzero,
        "detail": table.detail(record) if table.detail else None,
        "dense_zstd_bytes": figures.dense_zstd_bytes,
        "seconds": round(figures.total_seconds, 1),
        **stated(row),
        "recipe_hash": record.recipe_hash,
        "file_digest": record.file_digest,
        "machine": record.machine,
        "torch": record.versions["torch"],
    }


def stated(row: Row) -> dict[str, Any]:
    """What the table says of a row, run or not."""
    paper = row.published
    return {
        "published_error": paper.error if paper else None,
        "published_bytes": paper.bytes if paper else None,
        "published_ratio": paper.ratio if paper else None,
        "published_detail": paper.detail if paper else None,
        "source": paper.source if paper else "control",
        "recipe": row.recipe,
        "overrides": " ".join(row.overrides),
    }


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
