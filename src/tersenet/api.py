"""The same from Python: `compress`, `save`, `load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.load import load_recipe
from tersenet.core.recipe import Recipe
from tersenet.data import as_splits
from tersenet.flow.deployed import deploy
from tersenet.flow.load import load as load_model
from tersenet.flow.origin import origin
from tersenet.flow.pack import save, uncompiled
from tersenet.flow.prepare import register_methods, run_folder
from tersenet.flow.progress import Progress, first_process
from tersenet.flow.run import Outcome, run
from tersenet.models import check_finite
from tersenet.report import write_page
from tersenet.runtime.session import Session

__all__ = ["compress", "load", "save"]


def compress(
    model: nn.Module,
    recipe: Recipe | dict[str, Any] | str | Path,
    data: Any,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Compress `model`, which is trained further in place, and write file, record and page into a folder.

    recipe: a Recipe, a mapping like it, or the path of a YAML file; its own `model` and `data` are not looked at.
    data: whatever `tersenet.data.as_splits` takes: a mapping or tuple of train, validation and test, each a
        DataLoader, a Dataset or a tuple of tensors with the target last; a single one has validation held out.
    out: the folder, by default `runs/CLASS-HASH`, which is another for another model, recipe or data.
    Raises RecipeError, DataError or ModelError before training if these do not fit together; GateError at the end.
    """
    register_methods()
    if isinstance(recipe, str | Path):
        recipe = load_recipe(recipe)
    recipe = Recipe.parse(recipe).model_copy(update={"model": None})
    model = uncompiled(model)
    check_finite(model)
    splits = as_splits(data, recipe.data)
    folder = Path(out) if out is not None else run_folder(origin(recipe, model, splits), type(model).__name__.lower())
    outcome = run(recipe, model, splits, folder, resume=resume, progress=progress)
    if first_process():
        write_page([outcome.record], folder / "report.html")
    return outcome


@overload
def load(path: str | Path, model: nn.Module | None = None, *, runtime: None = None) -> nn.Module: ...
@overload
def load(path: str | Path, model: None = None, *, runtime: str, shapes: Sequence[str] = ()) -> Session: ...
def load(
    path: str | Path, model: nn.Module | None = None, *, runtime: str | None = None, shapes: Sequence[str] = ()
) -> nn.Module | Session:
    """The model that `path` holds: a module in eval mode, or with a `runtime` a function of numpy arrays or tensors.

    model: your own freshly built module, whose weights are then overwritten; not needed for a model of the zoo, which
        the file names, nor where the file holds the network's operators. No code that a file names is ever imported.
    runtime: 'torch', 'kernels' (ours, on the compressed form), or 'onnx' and 'openvino', which extras install.
    shapes: of one example for each input, as '3x224x224', where nothing else tells them.
    Raises ArtifactError if the file is damaged or needs `model`, ModelError if `model` is another network or the
    runtime is missing or cannot express it.
    """
    if runtime is None:
        return load_model(path, model)
    if model is not None:
        raise ModelError("'runtime' is for files that say what their model is; load into 'model' and export that")
    return deploy(path, runtime, shapes=shapes)
