"""What removal changed about a model, as data: noted on the model, stored in its file, applied to a fresh one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.graph.attributes import Attribute
from tersenet.graph.slices import tensors_of

Edits = dict[str, dict[str, int]]
"""Module → attribute → integer. `{"": {}}` says that shapes changed and nothing else."""

_KEY = "_tersenet_edits"


def noted(model: nn.Module) -> Edits:
    """The edits made to `model` since it was built; copies of the model have them too."""
    return {module: dict(values) for module, values in model.__dict__.get(_KEY, {}).items()}


def note(model: nn.Module, attributes: Iterable[Attribute]) -> None:
    """Remember the edits of one removal."""
    edits = noted(model) or {"": {}}
    for attribute in attributes:
        edits.setdefault(attribute.module, {})[attribute.name] = int(attribute.value)
    model.__dict__[_KEY] = edits


def apply(model: nn.Module, edits: Mapping[str, Mapping[str, int]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Make a freshly built `model` as small as the one that was stored; its tensors' values are then undefined.

    Only integers that a module already has are set, and only to smaller ones; nothing grows.

    Raises:
        ModelError: the model has no such module, attribute or tensor, or it is smaller than what was stored.
    """
    modules = dict(model.named_modules())
    for path, values in edits.items():
        for name, value in values.items():
            own = vars(modules[path]).get(name) if path in modules else None
            if type(own) is not int or not 0 < value <= own:
                raise ModelError(f"the file sets '{path}.{name}' to {value}, where this model has {own}: it is another")
            setattr(modules[path], name, value)
    tensors = tensors_of(model)
    for name, shape in shapes.items():
        own = tensors.get(name)
        if own is None or own.shape == torch.Size(shape):
            continue
        if own.ndim != len(shape) or any(new > old for new, old in zip(shape, own.shape, strict=True)):
            raise ModelError(f"'{name}' is {list(own.shape)} in the model and {list(shape)} in the file")
        own.data = own.data.new_empty(shape)
    model.__dict__[_KEY] = {module: dict(values) for module, values in edits.items()}
