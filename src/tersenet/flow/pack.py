"""A model and its origin, as the contents of a `.terse` file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.recipe import CodeSpec, Recipe, local_name
from tersenet.core.version import __version__
from tersenet.data import Splits
from tersenet.forms import aliases, encode_model
from tersenet.graph.edits import noted


def contents_of(model: nn.Module, recipe: Recipe, splits: Splits | None) -> artifact.Contents:
    """Everything that goes into the file. Nothing in it tells where on this machine the data lay; the model is stated
    apart from the recipe, and so left out there."""
    plain = {key: value for key, value in recipe.portable().items() if key != "model"}
    return artifact.Contents(
        tensors=encode_model(model, recipe.code.small_tensors),
        aliases=aliases(model),
        model=recipe.model.to_dict() if recipe.model else None,
        recipe=plain,
        versions={"tersenet": __version__, "torch": str(torch.__version__).split("+")[0]},
        data=local_name(splits.name) if splits else "",
        data_digest=splits.digest if splits else "",
        seed=recipe.seed,
        edits=noted(model),
    )


def save(model: nn.Module, path: str | Path, *, coder: str = "auto", small_tensors: str = "float16") -> artifact.Ledger:
    """Write `model` as it is to a `.terse` file; forms that stages gave its weights are stored as what they are.

    small_tensors: precision of one-dimensional float tensors (biases, norms): 'float32' to keep every bit of them.
    Returns where each byte went. Raises ArtifactError if the file cannot be written.
    """
    model = uncompiled(model)
    code = CodeSpec.parse({"coder": coder, "small_tensors": small_tensors})
    return artifact.write(Path(path), contents_of(model, Recipe(code=code), None), coder)


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, whose names are those of the user's class."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model
