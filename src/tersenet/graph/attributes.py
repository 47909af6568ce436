"""The integers that modules keep of their sizes: which must change with the tensors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tersenet.core.errors import ModelError
from tersenet.graph.axes import Axis
from tersenet.graph.flow import Flow
from tersenet.graph.slices import new_size
from tersenet.graph.trace import owner


@dataclass(frozen=True)
class Attribute:
    """`value` for the attribute `name` of the module at `module`."""

    module: str
    name: str
    value: Any


class ConflictError(ModelError):
    """Two operators need different values of one attribute; `nodes` are those."""

    def __init__(self, message: str, nodes: tuple[Node, ...]) -> None:
        super().__init__(message)
        self.nodes = nodes


def from_shapes(model: nn.Module) -> Iterator[Attribute]:
    """What the modules of torch.nn should say of themselves, after the shapes of their tensors.

    Group counts are left out: shapes do not tell them.
    """
    for path, module in model.named_modules():
        for name, value in _sizes(module).items():
            if getattr(module, name) != value:
                yield Attribute(path, name, value)


def _sizes(module: nn.Module) -> dict[str, Any]:
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, _ConvTransposeNd):
        return {"in_channels": weight.shape[0], "out_channels": weight.shape[1] * module.groups}
    if isinstance(module, _ConvNd):
        return {"in_channels": weight.shape[1] * module.groups, "out_channels": weight.shape[0]}
    if isinstance(module, nn.Linear):
        return {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": weight.shape[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight.shape[0]}
    if isinstance(module, nn.GroupNorm) and weight is not None:
        return {"num_channels": weight.shape[0]}
    if isinstance(module, _NormBase):
        first = next((t for t in (weight, module.running_mean) if t is not None), None)
        return {} if first is None else {"num_features": first.shape[0]}
    return {}


def from_calls(model: nn.Module, flow: Flow, lost: Mapping[Axis, int]) -> Iterator[Attribute]:
    """Attributes that gave an operator a size which changes.

    An attribute is taken for the source of a size only if it holds that very number and the code of the module that
    calls the operator reads an attribute of that name. Whether that was right shows when the smaller model is compared
    with the masked one.

    Raises:
        ConflictError: operators need different values of the same attribute.
    """
    found: dict[tuple[str, str], tuple[Any, Node]] = {}
    for node, sizes in flow.sizes.items():
        for old, dim in sizes:
            new = new_size(dim, lost)
            if old <= 0 or new == old:
                continue
            for attribute in _holders(model, node, old, new):
                key = (attribute.module, attribute.name)
                value, former = found.setdefault(key, (new, node))
                if value != new:
                    raise ConflictError(f"'{key[1]}' of {key[0]} would have to be {value} and {new}", (former, node))
    for (module, name), (value, _) in found.items():
        yield Attribute(module, name, value)


def _holders(model: nn.Module, node: Node, old: int, new: int) -> Iterator[Attribute]:
    path = owner(node)
    module = model.get_submodule(path)
    code = source(type(module))
    for name, value in vars(module).items():
        if type(value) is int and value == old and re.search(rf"\.{re.escape(name)}\b", code):
            yield Attribute(path, name, new)


_SOURCES: dict[type, str] = {}


def source(cls: type) -> str:
    """The methods of `cls` without its __init__, as text; "" where Python has no source."""
    if cls not in _SOURCES:
        _SOURCES[cls] = "\n".join(_text(function) for name, function in _methods(cls) if name != "__init__")
    return _SOURCES[cls]


def _methods(cls: type) -> list[tuple[str, Any]]:
    bases = [base for base in cls.__mro__ if base not in (nn.Module, object)]
    return [(n, f) for base in bases for n, f in vars(base).items() if inspect.isfunction(f)]


def _text(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""
