"""The same from Python: `compress`, `save`, `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tersenet.core.load import load_recipe
from tersenet.core.recipe import Recipe
from tersenet.data import as_splits
from tersenet.flow.load import load
from tersenet.flow.origin import origin
from tersenet.flow.pack import save, uncompiled
from tersenet.flow.prepare import register_methods, run_folder
from tersenet.flow.progress import Progress, first_process
from tersenet.flow.run import Outcome, run
from tersenet.models import check_finite
from tersenet.report import write_page

__all__ = ["compress", "load", "save"]


def compress(
    model: nn.Module,
    recipe: Recipe | dict[str, Any] | str | Path,
    data: Any,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Compress `model`, which is trained further in place, and write file, record and page into a folder.

    recipe: a Recipe, a mapping like it, or the path of a YAML file; its own `model` and `data` are not looked at.
    data: whatever `tersenet.data.as_splits` takes: a mapping or tuple of train, validation and test, each a
        DataLoader, a Dataset or a tuple of tensors with the target last; a single one has validation held out.
    out: the folder, by default `runs/CLASS-HASH`, which is another for another model, recipe or data.
    Raises RecipeError, DataError or ModelError before training if these do not fit together; GateError at the end.
    """
    register_methods()
    if isinstance(recipe, str | Path):
        recipe = load_recipe(recipe)
    recipe = Recipe.parse(recipe).model_copy(update={"model": None})
    model = uncompiled(model)
    check_finite(model)
    splits = as_splits(data, recipe.data)
    folder = Path(out) if out is not None else run_folder(origin(recipe, model, splits), type(model).__name__.lower())
    outcome = run(recipe, model, splits, folder, resume=resume, progress=progress)
    if first_process():
        write_page([outcome.record], folder / "report.html")
    return outcome
