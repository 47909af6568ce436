"""What changed about a model's modules, as data: noted on the model, stored in its file, applied to a fresh one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from tersenet.core.change import CHANGES, Change
from tersenet.core.errors import ModelError, RecipeError
from tersenet.graph.attributes import Attribute
from tersenet.graph.slices import tensors_of

Edits = dict[str, dict[str, int] | int | Change]
"""Module → attribute → integer; or module → `Skip.values`, for one that was taken out; or module → `Change`, for one
that another stands for. `{"": {}}` says that shapes changed and nothing else."""

_KEY = "_tersenet_edits"


class Skip(nn.Identity):
    """Stands where a block was taken out: gives back its first argument, of however many.

    values: 0 for that tensor alone; n for a tuple of n, whose others are None.
    """

    def __init__(self, values: int = 0) -> None:
        super().__init__()
        self.values = values

    def forward(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return (input, *[None] * (self.values - 1)) if self.values else input


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """`new` takes the place of `old` wherever `model` has it."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def noted(model: nn.Module) -> Edits:
    """The edits made to `model` since it was built; copies of the model have them too."""
    return _copied(model.__dict__.get(_KEY, {}))


def _copied(edits: Mapping[str, Mapping[str, int] | int | Change]) -> Edits:
    return {path: dict(values) if isinstance(values, Mapping) else values for path, values in edits.items()}


def note(model: nn.Module, attributes: Iterable[Attribute]) -> None:
    """Remember the edits of one removal."""
    edits = noted(model) or {"": {}}
    for attribute in attributes:
        values = edits.setdefault(attribute.module, {})
        assert isinstance(values, dict)  # what was taken out has no operators, and what was put in no sizes of its own
        values[attribute.name] = int(attribute.value)
    model.__dict__[_KEY] = edits


def take_out(model: nn.Module, name: str, values: int) -> None:
    """Put a `Skip` where the module `name` is, and remember it; what was noted of its inside is forgotten."""
    old = model.get_submodule(name)
    put(model, old, Skip(values).train(old.training))
    edits = {path: edit for path, edit in noted(model).items() if not f"{path}.".startswith(f"{name}.")}
    model.__dict__[_KEY] = {**edits, name: values}


def change(model: nn.Module, name: str, kind: str, options: Mapping[str, int]) -> None:
    """Make the change `kind` at the module `name`, and remember it, with the sizes the module has by then.

    Raises RecipeError if something inside the module has been changed already, which would be lost.
    """
    if inner := next((path for path in noted(model) if path.startswith(f"{name}.")), None):
        raise RecipeError(f"'{name}' cannot be replaced, because '{inner}' was put there before; swap the two stages")
    CHANGES[kind](model, name, options)
    edits = noted(model)
    before = edits.pop(name, {})
    assert isinstance(before, dict)  # nothing is put where something was put or taken out already
    model.__dict__[_KEY] = {**edits, name: Change(kind, dict(options), before)}


def apply(
    model: nn.Module,
    edits: Mapping[str, Mapping[str, int] | int | Change],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Make a freshly built `model` the one that was stored; its tensors' values are then undefined.

    Only modules that are there are taken out or changed, the outer before the inner ones; only integers that a module
    already has are set, and only to smaller ones; no tensor grows.

    Raises:
        ModelError: the model has no such module, attribute or tensor, or it is smaller than what was stored.
    """
    for path, values in sorted(edits.items(), key=lambda item: item[0]):
        if isinstance(values, int):
            _take_out(model, path, values)
        elif isinstance(values, Change):
            _change(model, path, values)
    modules = dict(model.named_modules())
    for path, sizes in edits.items():
        if isinstance(sizes, Mapping):
            _set(modules.get(path), path, sizes)
    _shrink(model, shapes)
    model.__dict__[_KEY] = _copied(edits)


def _take_out(model: nn.Module, path: str, values: int) -> None:
    if not path or path not in dict(model.named_modules(remove_duplicate=False)):
        raise ModelError(f"the file takes out '{path}', which this model does not have: it is another")
    take_out(model, path, values)


def _change(model: nn.Module, path: str, edit: Change) -> None:
    if edit.kind not in CHANGES:
        raise ModelError(
            f"the file changes '{path}' to '{edit.kind[:40]}', which this version does not know; update it"
        )
    if edit.before:
        _set(dict(model.named_modules()).get(path), path, edit.before)
    change(model, path, edit.kind, edit.options)


def _set(module: nn.Module | None, path: str, values: Mapping[str, int]) -> None:
    for name, value in values.items():
        own = None if module is None else vars(module).get(name)
        if type(own) is not int or not 0 < value <= own:
            raise ModelError(f"the file sets '{path}.{name}' to {value}, where this model has {own}: it is another")
        setattr(module, name, value)


def _shrink(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    tensors = tensors_of(model)
    for name, shape in shapes.items():
        own = tensors.get(name)
        if own is None or own.shape == torch.Size(shape):
            continue
        if own.ndim != len(shape) or any(new > old for new, old in zip(shape, own.shape, strict=True)):
            raise ModelError(f"'{name}' is {list(own.shape)} in the model and {list(shape)} in the file")
        own.data = own.data.new_empty(shape)
