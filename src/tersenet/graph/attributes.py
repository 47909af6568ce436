"""The integers that modules keep of their sizes: which must change with the tensors."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
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
from tersenet.graph.trace import frames, owner


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
    calls the operator reads an attribute of that name: on the very line, or else elsewhere, if no other operator of the
    module speaks against it. Whether that was right shows when the smaller model is compared
    with the masked one.

    Raises:
        ConflictError: operators need different values of the same attribute.
    """
    sure: dict[tuple[str, str], tuple[int, Node]] = {}
    likely: dict[tuple[str, str], set[int]] = defaultdict(set)
    for node, sizes in flow.sizes.items():
        for old, dim in sizes:
            new = new_size(dim, lost)
            for name, named in _holders(model, node, old):
                key = (owner(node), name)
                likely[key].add(new)
                if named and new != old and sure.setdefault(key, (new, node))[0] != new:
                    raise ConflictError(
                        f"'{name}' of {key[0]} would have to be {sure[key][0]} and {new}", (sure[key][1], node)
                    )
    for key, values in likely.items():  # where lines that do not name it disagree, it stays
        value = sure[key][0] if key in sure else values.pop() if len(values) == 1 else None
        if value is not None and value != getattr(model.get_submodule(key[0]), key[1]):
            yield Attribute(*key, value)


def _holders(model: nn.Module, node: Node, old: int) -> Iterator[tuple[str, bool]]:
    """Attributes of the calling module that are `old`, and whether the very line names them."""
    module = model.get_submodule(owner(node))
    code = source(type(module))
    line = "\n".join(frame.source for frame in frames(node))
    for name, value in vars(module).items():
        if type(value) is int and value == old > 0 and re.search(rf"\.{re.escape(name)}\b", code):
            yield name, bool(re.search(rf"\.{re.escape(name)}\b", line))


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
