"""The operators of a model as `torch.export` sees them, without leaving a mark on the model."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from tersenet.core.errors import ModelError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Trace:
    """An exported model: its operators in order, and what stands behind the placeholders."""

    nodes: list[Node]
    tensors: dict[str, str]  # placeholder → qualified name of the parameter or buffer
    constants: dict[str, torch.Tensor]  # placeholder → a tensor made in the forward
    module: torch.fx.GraphModule


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode and builds no gradients; afterwards every module is in its former mode, and
    random numbers go on as if none had been drawn."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(_devices(model)):
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def repeatable(model: nn.Module) -> Iterator[None]:
    """Inside, random numbers are the same each time; afterwards buffers that the model's code has changed are as
    before."""
    buffers = [
        (module, name, b, b.clone())
        for module in model.modules()
        for name, b in module._buffers.items()
        if b is not None
    ]
    torch.manual_seed(0)
    try:
        yield
    finally:
        for module, name, buffer, value in buffers:
            module._buffers[name] = buffer if torch.equal(buffer, value) else buffer.copy_(value)


def _devices(model: nn.Module) -> list[int]:
    """The GPUs that hold it."""
    return sorted({tensor.device.index or 0 for tensor in model.parameters() if tensor.is_cuda})


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings on how the model is written, and without the graph that torch logs before it gives up."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Export `model` on `inputs` (args, kwargs), in eval mode.

    Raises:
        ModelError: `torch.export` cannot follow the model; with its reason.
    """
    args, kwargs = inputs
    with undisturbed(model):
        try:
            with _quietly():
                program = torch.export.export(model, args, kwargs)
        except Exception as error:  # it raises almost anything, and all of it means that the model cannot be followed
            raise ModelError(f"torch.export cannot follow {type(model).__name__}: {_first(error)}") from error
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {key: program.constants[name] for key, name in signature.inputs_to_lifted_tensor_constants.items()}
    return Trace(list(program.graph.nodes), dict(named), constants, program.graph_module)


def _first(error: Exception) -> str:
    """The first telling line of an error of torch.export."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)\n(?P<source>[^\n]*)')


@dataclass(frozen=True)
class Frame:
    """A line of Python that an operator came from."""

    file: str
    line: int
    function: str
    source: str

    def __str__(self) -> str:
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"


def frames(node: Node) -> list[Frame]:
    """The Python lines that led to `node`, outermost first; empty where the exporter noted none."""
    found = _FRAME.finditer(node.meta.get("stack_trace") or "")
    return [Frame(m["file"], int(m["line"]), m["function"], m["source"].strip()) for m in found]


def owner(node: Node) -> str:
    """The qualified name of the module whose forward called the operator; "" for the model itself."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return re.sub(r"@\d+$", "", path)


def place(node: Node) -> str:
    """Where an operator is called, for people: ``layer1.0 (resnet.py:93)``."""
    lines = frames(node)
    theirs = [frame for frame in lines if "/torch/nn/" not in frame.file.replace("\\", "/")] or lines
    line = f"{theirs[-1]}" if theirs else ""
    return f"{owner(node) or 'the model'} ({line})" if line else owner(node) or "the model"


def operator(node: Node) -> str:
    """The operator's name without namespace, overload and in-place mark: ``add`` for ``aten.add_.Tensor``."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return str(getattr(target, "__name__", target))
    namespace, name = target._schema.name.split("::")
    plain = name.rstrip("_") if not name.startswith("__") else name
    return plain if namespace == "aten" else f"{namespace}.{plain}"


def bound(node: Node) -> dict[str, Any]:
    """The operator's arguments by the names of its schema, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    values.update(zip((argument.name for argument in schema), node.args, strict=False))
    values.update(node.kwargs)
    return values
