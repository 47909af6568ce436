"""Accuracy of a file, from the file alone or with the recipe that names its model and data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tersenet import artifact
from tersenet.core.errors import DataError
from tersenet.core.load import load_recipe, with_overrides
from tersenet.core.recipe import Recipe
from tersenet.data import Splits, check_fits, load_data
from tersenet.flow.context import fabric_for
from tersenet.flow.load import restore
from tersenet.flow.objective import loss_of
from tersenet.flow.prepare import prepare_model, register_methods
from tersenet.measure.accuracy import evaluate
from tersenet.train.objectives import objective_for, output_of


def evaluate_file(file: Path, recipe_path: Path | None, overrides: Iterable[str], split: str) -> dict[str, Any]:
    """Loss, error (None where the task has no classes) and examples of `split`.

    Raises DataError if neither the file nor the recipe leads to the data, ArtifactError or ModelError if the file
    cannot be loaded.
    """
    register_methods()
    contents = artifact.read(file)
    if recipe_path is not None:
        recipe = load_recipe(recipe_path, overrides)
        model = restore(contents, file, prepare_model(recipe))
    else:
        recipe = Recipe.parse(with_overrides(dict(contents.recipe), overrides))
        model = restore(contents, file)
    splits = data_of(file, recipe, contents)
    source = getattr(splits, split)
    if source is None:
        raise DataError(f"{splits.name}: has no {split} split; --split validation or train can be measured")
    check_fits(model, splits)
    fabric = fabric_for(recipe.runtime)
    scores = evaluate(model.to(fabric.device), source, objective_for(loss_of(recipe)), output_of, fabric.device)
    return {
        "file": str(file),
        "data": splits.name,
        "same_data_as_trained_on": splits.digest == contents.data_digest,
        "split": split,
        "examples": int(scores["examples"]),
        "loss": scores["loss"],
        "error": scores.get("error"),
    }


def data_of(file: Path, recipe: Recipe, contents: artifact.Contents) -> Splits:
    """The data that `recipe` names. Raises DataError with what to do about it, where `file` names none that is here."""
    if recipe.data is None:
        raise DataError(f"{file}: does not say what data it was made for; give --recipe, or --set data.path=…")
    try:
        return load_data(recipe.data)
    except DataError as error:
        if recipe.data.path != contents.data and contents.recipe.get("data", {}).get("path") != recipe.data.path:
            raise
        raise DataError(f"{error}; if the data lies elsewhere here, name it with --set data.path=…") from None
