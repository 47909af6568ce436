"""Accuracy of a file, from the file alone or with the recipe that names its model and data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.errors import DataError
from tersenet.core.load import load_recipe, with_overrides
from tersenet.core.recipe import Recipe
from tersenet.data import Splits, check_fits, load_data
from tersenet.data.source import Batch
from tersenet.flow.context import fabric_for
from tersenet.flow.deployed import deploy
from tersenet.flow.load import restore
from tersenet.flow.objective import loss_of
from tersenet.flow.prepare import prepare_model, register_methods
from tersenet.measure.accuracy import evaluate
from tersenet.runtime.session import Session
from tersenet.train.objectives import objective_for, output_of


def evaluate_file(
    file: Path, recipe_path: Path | None, overrides: Iterable[str], split: str, runtime: str | None = None
) -> dict[str, Any]:
    """Loss, error (None where the task has no classes) and examples of `split`.

    runtime: what computes the outputs, `runtime.session.RUNTIMES`; None: the model as it was read back.
    Raises DataError if neither the file nor the recipe leads to the data, ArtifactError or ModelError if the file
    cannot be loaded, or the runtime is missing or cannot express the model.
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
    device = torch.device("cpu") if runtime else fabric_for(recipe.runtime).device
    if runtime:
        model = _InRuntime(deploy(file, runtime, shapes=_shapes(source.example()), recipe=recipe_path))
    scores = evaluate(model.to(device), source, objective_for(loss_of(recipe)), output_of, device)
    return {
        "file": str(file),
        "data": splits.name,
        "same_data_as_trained_on": splits.digest == contents.data_digest,
        "split": split,
        "examples": int(scores["examples"]),
        "loss": scores["loss"],
        "error": scores.get("error"),
    }


class _InRuntime(nn.Module):
    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.session(*inputs)


def _shapes(example: Batch) -> list[str]:
    """As `deployable` takes them; none where an input has no axis but the batch."""
    shapes = [tuple(tensor.shape[1:]) for tensor in example.inputs]
    kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in example.inputs]
    found = [f"{'x'.join(map(str, shape))}:{kind}" for shape, kind in zip(shapes, kinds, strict=True)]
    return found if all(shapes) else []


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
