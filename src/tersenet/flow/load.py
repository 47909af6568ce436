"""From a `.terse` file back to a model."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from tersenet import artifact
from tersenet.core.errors import ArtifactError
from tersenet.core.recipe import ModelSpec
from tersenet.forms import load_codes
from tersenet.models import build


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The model that `path` holds, in eval mode.

    model: your own freshly built module, whose weights are then overwritten; not needed for a model of the zoo, which
        the file names. No code that a file names is ever imported.
    Raises ArtifactError if the file is damaged or needs `model`, ModelError if `model` is another network.
    """
    contents = artifact.read(Path(path))
    if model is None:
        model = zoo_model(contents, path)
    load_codes(model, contents.tensors, contents.aliases)
    return model.eval()


def zoo_model(contents: artifact.Contents, path: str | Path) -> nn.Module:
    """A fresh model as the file specifies it."""
    if not contents.model or "name" not in contents.model:
        maker = (contents.model or {}).get("factory")
        origin = f"made by {maker}" if maker else "that was given as a Python object"
        raise ArtifactError(f"{path}: holds a model {origin}; give the freshly built module: load(path, model=…)")
    return build(ModelSpec.parse({key: contents.model[key] for key in ("name", "kwargs") if key in contents.model}), 0)
