"""The models that a training names as its teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from tersenet.core.copying import copied
from tersenet.core.errors import RecipeError, TersenetError
from tersenet.core.recipe import Recipe
from tersenet.core.stage import Stage
from tersenet.core.training import Training
from tersenet.data import Splits
from tersenet.flow.load import load
from tersenet.flow.objective import trainings, trainings_of
from tersenet.train.objectives import output_of
from tersenet.train.teacher import Teachers


def teachers_for(training: Training, known: Mapping[str, nn.Module], device: torch.device) -> Teachers | None:
    """known: of trainings that name no files, `Teacher.model` → that model."""
    if training.teacher is None:
        return None
    models = [load(Path(file)) for file in training.teacher.files] or [copied(known[training.teacher.model])]
    return Teachers([model.to(device).eval().requires_grad_(False) for model in models], training.teacher)


def taught_by(stage: Stage, model: nn.Module) -> dict[str, nn.Module]:
    """{"stage": a copy of the model} if a training of this stage learns from the model as the stage gets it, a teacher
    between the dense one and the small (Mirzadeh et al. 2020, arXiv 1902.03393)."""
    wanted = any(training.teacher and training.teacher.model == "stage" for training in trainings_of(stage))
    return {"stage": copied(model)} if wanted else {}


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
