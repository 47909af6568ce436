"""From a recipe to the things it names: methods, model, data, and the folder of its run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tersenet.core.discover import import_files
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.data import Splits, load_data
from tersenet.models import build, input_shape

METHOD_ROOMS = ("tersenet.prune", "tersenet.quantize", "tersenet.factorize")


def register_methods() -> None:
    """Import every file of the method rooms, so that a new method is found by being there."""
    for room in METHOD_ROOMS:
        import_files(room)


def prepare(recipe: Recipe) -> tuple[nn.Module, Splits]:
    """The model and the data that a recipe file must name; raises RecipeError where it does not."""
    if recipe.data is None:
        raise RecipeError("recipe: 'data' is missing; name a folder, a hub id, 'digits' or a factory", ("data",))
    return prepare_model(recipe), load_data(recipe.data)


def prepare_model(recipe: Recipe) -> nn.Module:
    if recipe.model is None:
        raise RecipeError("recipe: 'model' is missing; name a model of the zoo or a factory", ("model",))
    return build(recipe.model, recipe.seed)


def example_inputs(recipe: Recipe) -> tuple[torch.Tensor, ...] | None:
    """One example for the model, or None where nothing tells its shape.

    The zoo knows the shape its models take by default; any other comes from the data, if that can be loaded, else from
    the arguments of a model of the zoo.
    """
    named = recipe.model if recipe.model is not None and recipe.model.name is not None else None
    by_default = named is not None and not named.kwargs
    if recipe.data is not None and not by_default:
        try:
            return tuple(tensor[:1] for tensor in load_data(recipe.data).validation.example().inputs)
        except DataError:
            pass  # it may lie elsewhere
    return (torch.zeros(1, *input_shape(str(named.name), named.kwargs)),) if named else None


def run_folder(digest: str, name: str, base: Path = Path("runs")) -> Path:
    """`runs/NAME-HASH`: one folder for what `digest` sums up, the same on every call."""
    return base / f"{name}-{digest}"
