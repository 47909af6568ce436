"""A model without its Python source: the exported graph as plain data, and a module that runs such data.

What is stored is the model in eval mode: dropout is off and batch norm uses its running statistics, also when the
stored model is trained on.
"""

from __future__ import annotations

import base64
import operator as python
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from tersenet.core.copying import copied
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.graph.channels import as_inputs
from tersenet.graph.flow import RULES
from tersenet.graph.trace import undisturbed

Program = dict[str, Any]
"""inputs: the tensors given, as [dtype, shape of one example, or None where there is no batch]. state: names of the
parameters and buffers read. constants: other tensors, as [dtype, shape, base64 of the bytes]. calls: [operator,
arguments, keyword arguments], whose results are numbered on from inputs, state and constants. output: the structure
that is returned. {"r": n} is value n."""

MOST_CONSTANTS = 2**23
"""Bytes of constants in one graph."""

MOST_NUMBERS = 2**28
"""In one example."""

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    name: getattr(python, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem", "eq", "le", "ge")
}
_CREATE = {"arange", "zeros", "ones", "full", "empty", "eye", "scalar_tensor", "new_zeros", "new_ones", "new_full"}
_KINDS = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}


def stored(model: nn.Module, inputs: Any) -> Program:
    """The graph of `model`, without its weights, for any batch size where the model allows that.

    inputs: an example, as for `ChannelGraph`; the first dimension of every tensor is taken for the batch.

    Raises:
        ModelError: the model cannot be exported, or holds what plain data cannot say.
    """
    model = copied(model)
    args, kwargs = pytree.tree_map(_twice, as_inputs(inputs))
    with undisturbed(model):
        program = _export(model, args, kwargs)
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    kept = model.state_dict().keys()
    tensors = {name: _constant_of(program, name) for name in signature.inputs_to_lifted_tensor_constants.values()}
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name not in kept}
    places = [node for node in program.graph.nodes if node.op == "placeholder"]
    source = {n: named.get(n.name) or signature.inputs_to_lifted_tensor_constants.get(n.name) for n in places}
    given = [node for node in places if source[node] is None]
    state = [node for node in places if source[node] in kept]
    constants = [node for node in places if source[node] in tensors and source[node] not in kept]
    numbers = {node: number for number, node in enumerate([*given, *state, *constants])}
    calls = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            numbers[node] = len(numbers)
            kwargs_ = {key: _plain(value, numbers) for key, value in node.kwargs.items() if key != "device"}
            calls.append([_name(node), [_plain(value, numbers) for value in node.args], kwargs_])
    values = [numbers[node] for node in program.graph.output_node().args[0][-len(signature.user_outputs) :]]
    output = pytree.tree_unflatten([{"r": value} for value in values], program.call_spec.out_spec)
    return {
        "inputs": [_example(node.meta["val"]) for node in given],
        "state": [source[node] for node in state],
        "constants": _constants([tensors[str(source[node])] for node in constants]),
        "calls": calls,
        "output": _structure(output),
    }


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    def free(value: Any) -> Any:
        return {0: torch.export.Dim.DYNAMIC} if isinstance(value, torch.Tensor) and value.ndim else None

    shapes = (*(pytree.tree_map(free, arg) for arg in args), *(pytree.tree_map(free, v) for v in kwargs.values()))
    try:
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes if not kwargs else None)
    except Exception:
        try:
            return torch.export.export(model, args, kwargs)  # a batch size that is written into the model stays
        except Exception as error:
            raise ModelError(f"torch.export cannot follow {type(model).__name__}: {error}".split("\n")[0]) from error


def _twice(value: Any) -> Any:
    """A batch of two: one of a single example would be taken for a size that never changes."""
    one = isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == 1
    return torch.cat([value, value]) if one else value


def _example(value: torch.Tensor) -> list[Any]:
    return [str(value.dtype).removeprefix("torch."), [int(side) for side in value.shape[1:]] if value.ndim else None]


def _constant_of(program: torch.export.ExportedProgram, name: str) -> torch.Tensor:
    value = program.constants[name]
    if not isinstance(value, torch.Tensor):
        raise ModelError(f"the model's graph holds '{name}', which is no tensor")
    return value


def _name(node: Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        name = str(node.target)
        _operator(name)
        return name
    name = getattr(node.target, "__name__", "")
    if _ARITHMETIC.get(name) is not node.target:
        raise ModelError(f"the model's graph calls {name or node.target}, which a file cannot hold")
    return name


def _operator(name: str) -> Callable[..., Any]:
    """The operator of that name, if it is one that computes a tensor from tensors and nothing else."""
    if name in _ARITHMETIC:
        return _ARITHMETIC[name]
    parts = name.split(".")
    if len(parts) == 3 and parts[0] == "aten" and not parts[1].startswith("__"):
        found = getattr(getattr(torch.ops.aten, parts[1], None), parts[2], None)
        if isinstance(found, torch._ops.OpOverload):
            plain = parts[1].rstrip("_")
            if plain in RULES or plain in _CREATE or parts[1] == "sym_size" or torch.Tag.pointwise in found.tags:
                return found
    if len(parts) == 3 and parts[0] == "tersenet":  # operators of ours
        found = getattr(getattr(torch.ops.tersenet, parts[1], None), parts[2], None)
        if isinstance(found, torch._ops.OpOverload):
            return found
    raise ModelError(f"the graph calls the operator '{name}', which a file must not call")


def _plain(value: Any, numbers: Mapping[Node, int]) -> Any:
    if isinstance(value, Node):
        return {"r": numbers[value]}
    if isinstance(value, list | tuple):
        return [_plain(entry, numbers) for entry in value]
    for kind, type_ in _KINDS.items():
        if isinstance(value, type_):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": None}
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelError(f"the model's graph has an argument of type {type(value).__name__}, which a file cannot hold")


def _structure(output: Any) -> Any:
    """Tuples as lists, and whatever behaves like a mapping as an object under "o"."""
    if isinstance(output, Mapping) and set(output) == {"r"}:
        return dict(output)
    if isinstance(output, Mapping):
        return {"o": {str(key): _structure(value) for key, value in output.items()}}
    if isinstance(output, list | tuple):
        return [_structure(value) for value in output]
    if output is None:
        return None
    raise ModelError(f"the model returns a {type(output).__name__}, which a file cannot describe")


def _constants(tensors: Iterable[torch.Tensor]) -> list[list[Any]]:
    rows, total = [], 0
    for tensor in tensors:
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        total += len(raw)
        rows.append([str(tensor.dtype).removeprefix("torch."), list(tensor.shape), base64.b64encode(raw).decode()])
    if total > MOST_CONSTANTS:
        raise ModelError(f"the model's graph holds {total:,} bytes of constants, more than {MOST_CONSTANTS:,}")
    return rows


class StoredModel(nn.Module):
    """Runs a `Program`. Parameters have the names they had in the model that was stored."""

    def __init__(self, program: Program, tensors: Mapping[str, torch.Tensor]) -> None:
        """tensors: a tensor of the right shape and dtype under every name of the state dict; floats become parameters.

        Raises:
            ArtifactError: the program is not what `stored` gives.
        """
        super().__init__()
        try:
            self._build(program, tensors)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError, ModelError) as error:
            raise ArtifactError(f"malformed: the stored graph cannot be built: {error}") from None

    def _build(self, program: Program, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            _hold(self, name, tensor)
        self.examples = [(_dtype(dtype), None if shape is None else _size(shape)) for dtype, shape in program["inputs"]]
        self.state, self.output = list(program["state"]), program["output"]
        for name in self.state:
            if name not in tensors:
                raise ValueError(f"it reads '{name}', which is not stored")
        self.constants = [_tensor(*row) for row in program["constants"]]
        start = len(self.examples) + len(self.state) + len(self.constants)
        self.calls = []
        for number, (name, args, kwargs) in enumerate(program["calls"], start):
            _check(args, number)
            _check(list(kwargs.values()), number)
            self.calls.append((_operator(name), args, kwargs))
        _check(_flat(self.output), start + len(self.calls))

    def example(self) -> tuple[torch.Tensor, ...] | None:
        """A batch of one, zeros, of the shapes that the model was stored with; None where an input has no batch. They
        take no memory, whatever a file says."""
        shapes = [(dtype, shape) for dtype, shape in self.examples if shape is not None]
        if len(shapes) < len(self.examples):
            return None
        return tuple(torch.zeros((), dtype=dtype).expand(1, *shape) for dtype, shape in shapes)

    def held(self, number: int) -> torch.Tensor:
        """Value `number`, where that is a parameter or a buffer."""
        names = dict(enumerate(self.state, len(self.examples)))
        found: torch.Tensor = _held(self, names[number])
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if leaf is not None]
        if len(given) != len(self.examples):
            raise ModelError(f"the stored model takes {len(self.examples)} tensors, not {len(given)}")
        device = given[0].device if given else torch.device("cpu")
        constants = [tensor.to(device) for tensor in self.constants]
        state = [_held(self, name) for name in self.state]
        values = [*given, *state, *constants]
        for call, arguments, options in self.calls:
            values.append(call(*_value(arguments, values), **{k: _value(v, values) for k, v in options.items()}))
        return _result(self.output, values)


def _hold(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    if tensor.is_floating_point() and not last.startswith("running_"):
        module.register_parameter(last, nn.Parameter(tensor))
    else:
        module.register_buffer(last, tensor)


def _held(module: nn.Module, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(module.get_submodule(path), last)


def _tensor(dtype: str, shape: list[int], raw: str) -> torch.Tensor:
    data = bytearray(base64.b64decode(raw, validate=True))
    kind = _dtype(dtype)
    return (torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)).reshape(shape)


def _size(shape: list[int]) -> torch.Size:
    if any(not 0 <= side < 2**31 for side in shape) or prod(shape) > MOST_NUMBERS:
        raise ValueError(f"no example has the shape {shape}")
    return torch.Size(shape)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"'{name}' is no dtype")
    return found


def _check(value: Any, below: int) -> None:
    """References go to values that exist by then."""
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, list):
            _check(entry, below)
        elif isinstance(entry, dict) and "r" in entry and not 0 <= int(entry["r"]) < below:
            raise ValueError(f"value {entry['r']} is used before it is there")


def _flat(structure: Any) -> list[Any]:
    if isinstance(structure, dict) and "o" in structure:
        return [leaf for value in structure["o"].values() for leaf in _flat(value)]
    if isinstance(structure, list):
        return [leaf for value in structure for leaf in _flat(value)]
    return [structure]


def _value(plain: Any, values: list[Any]) -> Any:
    if isinstance(plain, list):
        return [_value(entry, values) for entry in plain]
    if not isinstance(plain, dict):
        return plain
    key, entry = next(iter(plain.items()))
    if key == "r":
        return values[entry]
    if key == "float":
        return float(entry)
    return None if key == "device" else getattr(torch, entry) if key in _KINDS else plain


def _result(structure: Any, values: list[Any]) -> Any:
    if isinstance(structure, dict) and "o" in structure:
        return {key: _result(value, values) for key, value in structure["o"].items()}
    if isinstance(structure, list):
        return tuple(_result(value, values) for value in structure)
    return _value(structure, values)
