"""A model as an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.runtime.compact import compact, halve
from tersenet.runtime.extras import needed
from tersenet.runtime.plain import Inputs, levels_of, outputs_of, plain
from tersenet.runtime.tidy import shorten, strip

OPSETS = range(21, 24)
"""Versions of the operators that can be asked for: with integers of four bits, and within what runtimes read."""


def onnx_model(
    model: nn.Module, inputs: Inputs, codes: Mapping[str, Code], opset: int, dtype: str, *, pack: bool = True
) -> tuple[Any, list[str]]:
    """(onnx.ModelProto, notes) with batch norms multiplied into the layers before them and any size of batch.

    pack: several numbers in a byte where they are few, for runtimes that take them apart when they load the file.
    Raises ModelError where torch.export cannot follow the model, or ONNX has no operator for one of its.
    """
    onnx, _ = needed("onnx"), needed("onnxscript", "onnx")
    if opset not in OPSETS:
        raise ModelError(f"opset {opset}: must be {OPSETS[0]} to {OPSETS[-1]}")
    copy, two = plain(model, operators=True), tuple(torch.cat([one[:1]] * 2) for one in inputs)
    with quietly():
        program = followed(copy, two)
        proto = _exported(program, opset, len(inputs), len(outputs_of(copy, two)))
    strip(proto)
    notes = compact(proto, levels_of(codes), pack=pack)
    if dtype != "float32":
        halve(proto, dtype)
    shorten(proto, copy.state_dict().keys())
    onnx.checker.check_model(proto, full_check=True)
    sizes = [entry.type.tensor_type.shape.dim[0] for entry in proto.graph.input]
    if not all(size.dim_param for size in sizes):
        notes.append(f"the batch is fixed at {sizes[0].dim_value}: the model computes with its size")
    return proto, notes


def followed(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """`model` by torch.export, for batches of any size if it allows; raises ModelError with the reason."""
    outputs_of(model, inputs)  # a wrong input is told as that
    shapes = tuple({0: torch.export.Dim.AUTO} for _ in inputs)  # type: ignore[attr-defined]
    try:
        return torch.export.export(model, inputs, dynamic_shapes=(shapes,) if _variadic(model) else shapes)
    except Exception as error:  # it raises almost anything
        raise ModelError(f"torch.export cannot follow {type(model).__name__}: {_first(error)}") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what exporters say on their way."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _exported(program: torch.export.ExportedProgram, opset: int, inputs: int, outputs: int) -> Any:
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=opset,
            input_names=names("input", inputs),
            output_names=names("output", outputs),
        )
    except Exception as error:  # of several classes, some private
        text = f"{error}\n{error.__cause__}"
        known = re.search(r"No (?:ONNX function|decompositions)[^\n]*?((?:\w+)[.:]+\w+[.\w]*)['>]", text)
        operator = known[1] if known else _first(error)
        raise ModelError(f"ONNX cannot express an operator of the model: {operator}") from error
    assert made is not None
    return made.model_proto


def names(kind: str, count: int) -> list[str]:
    return [kind] if count == 1 else [f"{kind}_{number}" for number in range(count)]


def _variadic(model: nn.Module) -> bool:
    return bool(type(model).forward.__code__.co_flags & 0x04)  # *args are one argument to torch.export


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
