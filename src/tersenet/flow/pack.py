"""A model and its origin, as the contents of a `.terse` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.recipe import CodeSpec, Recipe
from tersenet.core.version import __version__
from tersenet.data import Splits
from tersenet.forms import aliases, encode_model


def contents_of(model: nn.Module, recipe: Recipe, splits: Splits | None) -> artifact.Contents:
    """Everything that goes into the file. Nothing in it tells where on this machine the data lay."""
    return artifact.Contents(
        tensors=encode_model(model, recipe.code.small_tensors),
        aliases=aliases(model),
        model=recipe.model.to_dict() if recipe.model else None,
        recipe=portable(recipe),
        versions={"tersenet": __version__, "torch": str(torch.__version__).split("+")[0]},
        data=splits.name if splits else "",
        data_digest=splits.digest if splits else "",
        seed=recipe.seed,
    )


def portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe without what holds on this machine only: of a local path, the last folder's name stays.

    The model is left out, since the file states it apart.
    """
    plain = recipe.to_dict()
    plain.pop("model", None)
    path = plain.get("data", {}).get("path")
    if path and Path(path).exists():
        plain["data"]["path"] = Path(path).resolve().name
    return plain


def save(model: nn.Module, path: str | Path, *, coder: str = "auto", small_tensors: str = "float16") -> artifact.Ledger:
    """Write `model` as it is to a `.terse` file; forms that stages gave its weights are stored as what they are.

    small_tensors: precision of one-dimensional float tensors (biases, norms): 'float32' to keep every bit of them.
    Returns where each byte went. Raises ArtifactError if the file cannot be written.
    """
    code = CodeSpec.parse({"coder": coder, "small_tensors": small_tensors})
    return artifact.write(Path(path), contents_of(model, Recipe(code=code), None), coder)
