"""The models that a training names as its teachers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from tersenet.core.copying import copied
from tersenet.core.errors import RecipeError, TersenetError
from tersenet.core.recipe import Recipe
from tersenet.core.training import Training
from tersenet.data import Splits
from tersenet.flow.load import load
from tersenet.flow.objective import trainings
from tersenet.train.objectives import output_of
from tersenet.train.teacher import Teachers


def teachers_for(training: Training, dense: nn.Module | None, device: torch.device) -> Teachers | None:
    """dense: the model as it was before the first stage, for trainings that name no files."""
    if training.teacher is None:
        return None
    models = [load(Path(file)) for file in training.teacher.files]
    if not models:
        assert dense is not None, "the recipe refuses a first training without files"
        models = [copied(dense)]
    return Teachers([model.to(device).eval().requires_grad_(False) for model in models], training.teacher)


def digests(training: Training) -> dict[str, str]:
    """What the files hold, for a training is another one with another teacher."""
    files = training.teacher.files if training.teacher else ()
    return {file: hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest() for file in files}


def check_teachers(recipe: Recipe, model: nn.Module, splits: Splits) -> None:
    """Raises RecipeError before anything is trained if a file cannot be a teacher of this model."""
    files = {file for training in trainings(recipe) if training.teacher for file in training.teacher.files}
    wanted = _output(copied(model), splits) if files else ()
    for file in sorted(files):
        try:
            given = _output(load(Path(file)), splits)
        except (RuntimeError, TypeError, TersenetError) as error:
            raise RecipeError(f"teacher {file}: {error}") from error
        if given != wanted:
            raise RecipeError(f"teacher {file}: its output is {given}, but that of the model that learns {wanted}")


@torch.no_grad()
def _output(model: nn.Module, splits: Splits) -> tuple[int, ...]:
    inputs = splits.train.example().inputs
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    return tuple(output_of(model.eval()(*(x.to(device) for x in inputs))).shape)
