"""From a `.terse` file back to a model."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.errors import ArtifactError
from tersenet.core.recipe import ModelSpec
from tersenet.forms import decode, load_codes
from tersenet.graph.edits import apply
from tersenet.graph.program import StoredModel
from tersenet.models import build, skeleton

MOST_REMOVED = 1000
"""A file may name a model of so many times the parameters that it holds, where it says that channels were removed."""


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The model that `path` holds, in eval mode.

    model: your own freshly built module, whose weights are then overwritten; not needed for a model of the zoo, which
        the file names, nor where the file holds the network's operators, which are then run as they are. No code that
        a file names is ever imported.
    Raises ArtifactError if the file is damaged or needs `model`, ModelError if `model` is another network.
    """
    return restore(artifact.read(Path(path)), path, model)


def restore(contents: artifact.Contents, path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The same from what has been read; `path` is what errors call it."""
    if model is None and contents.graph:
        return stored_model(contents).eval()
    if model is None:
        model = zoo_model(contents, path)
    if contents.edits:
        apply(model, contents.edits, {name: code.shape for name, code in contents.tensors.items()})
    load_codes(model, contents.tensors, contents.aliases)
    return model.eval()


def stored_model(contents: artifact.Contents) -> nn.Module:
    """A module that runs the graph of the file; it is already as small as it was stored."""
    tensors = {name: decode(code) for name, code in contents.tensors.items()}
    tensors |= {other: tensors[name] for other, name in contents.aliases.items()}
    return StoredModel(contents.graph, tensors)


def zoo_model(contents: artifact.Contents, path: str | Path) -> nn.Module:
    """A fresh model as the file specifies it."""
    if not contents.model or "name" not in contents.model:
        maker = (contents.model or {}).get("factory")
        origin = f"made by {maker}" if maker else "that was given as a Python object"
        raise ArtifactError(
            f"{path}: holds a model {origin}, without its operators; give the freshly built module, load(path, "
            "model=…), or on the command line the recipe that builds it, --recipe; or save it anew with "
            "save(model, path, example=…)"
        )
    spec = ModelSpec.parse({key: contents.model[key] for key in ("name", "kwargs") if key in contents.model})
    with torch.device("meta"):  # first without memory: what the file asks for may be larger than what it holds
        asked = sum(parameter.numel() for parameter in skeleton(spec).parameters())
    held = sum(math.prod(code.shape) for code in contents.tensors.values())
    if asked > held * (MOST_REMOVED if contents.edits else 1):
        raise ArtifactError(f"{path}: names a model of {asked:,} parameters, but holds {held:,} values")
    return build(spec, 0)
