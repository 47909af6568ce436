"""A model and its origin, as the contents of a `.terse` file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from tersenet import artifact
from tersenet.core.copying import copied
from tersenet.core.errors import ModelError
from tersenet.core.recipe import CodeSpec, Recipe, local_name
from tersenet.core.version import __version__
from tersenet.data import Splits
from tersenet.flow.origin import from_zoo
from tersenet.forms import ModelCodes, aliases, detach, form_of, weights
from tersenet.forms.inputs import as_operators
from tersenet.graph.edits import noted
from tersenet.graph.program import stored


def contents_of(
    model: nn.Module, recipe: Recipe, splits: Splits | None, note: Callable[[str], None] = lambda sentence: None
) -> artifact.Contents:
    """Everything that goes into the file. Nothing in it tells where on this machine the data lay; the model is stated
    apart from the recipe, and so left out there. A model that is not of the zoo brings its operators, if it can be
    exported on an example of the data; `note` is told why not."""
    graph: dict[str, Any] = {}
    if splits is not None and not from_zoo(recipe):
        try:
            graph = graph_of(model, tuple(splits.train.example().inputs))
        except ModelError as error:
            note(
                f"the file loads into a freshly built model only, since it cannot hold the network's operators: {error}"
            )

    plain = {key: value for key, value in recipe.portable().items() if key != "model"} if recipe.code.recipe else {}
    return artifact.Contents(
        tensors=ModelCodes(model, recipe.code.small_tensors),
        aliases=aliases(model),
        model=recipe.model.to_dict() if recipe.model else None,
        recipe=plain,
        versions={"tersenet": __version__, "torch": str(torch.__version__).split("+")[0]},
        data=local_name(splits.name) if splits else "",
        data_digest=splits.digest if splits else "",
        seed=recipe.seed,
        edits=noted(model),
        graph=graph,
    )


def graph_of(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """The operators of `model`, to be stored where no specification can rebuild it.

    Raises ModelError if `torch.export` cannot follow the model, or a file cannot hold what it finds.
    """
    plain = copied(model).cpu()
    for target in weights(plain):
        if form_of(target) is not None:
            detach(target)
    as_operators(plain)
    return stored(plain, pytree.tree_map(lambda value: value.cpu(), inputs))


def save(
    model: nn.Module,
    path: str | Path,
    *,
    example: Any = None,
    coder: str = "auto",
    small_tensors: str = "float16",
) -> artifact.Ledger:
    """Write `model` as it is to a `.terse` file; forms that stages gave its weights are stored as what they are.

    example: an input (a tensor, a tuple of arguments or a dict of keyword arguments); with it the file holds the
        network's operators too, and loads without the source of the model.
    small_tensors: precision of one-dimensional float tensors (biases, norms): 'float32' to keep every bit of them.
    Returns where each byte went. Raises ArtifactError if the file cannot be written, ModelError if `example` is given
    and the model cannot be exported.
    """
    model = uncompiled(model)
    code = CodeSpec.parse({"coder": coder, "small_tensors": small_tensors})
    contents = contents_of(model, Recipe(code=code), None)
    if example is not None:
        contents = replace(contents, graph=graph_of(model, example))
    return artifact.write(Path(path), contents, coder)


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, whose names are those of the user's class."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model
