"""A model as a file of another tool, which is run there before it takes its name."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.disk import replace_file
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.forms import encode_model
from tersenet.runtime.extras import needed
from tersenet.runtime.onnx_file import followed, onnx_model, quietly
from tersenet.runtime.plain import Inputs, outputs_of, plain, rounds_inputs
from tersenet.runtime.session import Session

Type = Literal["float32", "float16", "bfloat16"]

TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""How far outputs in the runtime may be from those in PyTorch: root mean square of the difference over that of the
output."""

ROUNDED = 0.1
"""The same where inputs of layers are rounded: a value that lies between two steps may fall to either side, and what
follows is as far apart as two neighbours of the grid."""


@dataclass(frozen=True)
class Exported:
    """difference: of the outputs in the runtime to PyTorch's, relative, root mean square; None where none runs it."""

    path: Path
    bytes: int
    runtime: str | None
    difference: float | None
    notes: tuple[str, ...] = ()


def export(
    model: nn.Module,
    example: Inputs,
    path: str | Path,
    *,
    codes: Mapping[str, Code] | None = None,
    opset: int = 21,
    dtype: Type = "float32",
) -> Exported:
    """Write `model` to `path`, whose ending says the format: .onnx, .xml (OpenVINO; weights in .bin beside it), .pt2
    (torch.export) or .safetensors (dense weights alone).

    example: inputs, batch first; not looked at for .safetensors. codes: the weights as the .terse file holds them; by
    default as the model's forms say.
    dtype: of stored floats; .onnx and .xml compute in float32 all the same. opset: of .onnx.
    Raises ModelError where the format cannot hold the model, or the runtime's outputs are not the model's.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ModelError(f"{path}: the ending says the format, which is one of {', '.join(FORMATS)}")
    if dtype not in get_args(Type):
        raise ModelError(f"dtype {dtype}: must be one of {', '.join(get_args(Type))}")
    made = _Model(model, example, encode_model(model) if codes is None else codes, opset, dtype)
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / path.name
        notes = FORMATS[path.suffix](made, beside)
        difference = None if path.suffix == ".safetensors" else _difference(made, beside)
        runtime = None if difference is None else Session(beside).runtime
        parts = sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name)
        for part in parts:  # the one that names the others comes last
            replace_file(path.with_name(part.name), part.read_bytes(), ArtifactError)
        return Exported(path, sum(part.stat().st_size for part in parts), runtime, difference, tuple(notes))


@dataclass(frozen=True)
class _Model:
    model: nn.Module
    example: Inputs
    codes: Mapping[str, Code]
    opset: int
    dtype: str


def _to_onnx(made: _Model, path: Path) -> list[str]:
    proto, notes = onnx_model(made.model, made.example, made.codes, made.opset, made.dtype)
    path.write_bytes(proto.SerializeToString())
    return notes


def _to_openvino(made: _Model, path: Path) -> list[str]:
    openvino = needed("openvino")
    if made.dtype == "bfloat16":
        raise ModelError("OpenVINO's files hold float32 or float16; give one of these as dtype")
    proto, notes = onnx_model(made.model, made.example, made.codes, made.opset, "float32", pack=False)
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "model.onnx"
        between.write_bytes(proto.SerializeToString())
        try:
            converted = openvino.convert_model(str(between))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot take the model: {str(error).strip().splitlines()[-1]}") from None
        openvino.save_model(converted, str(path), compress_to_fp16=made.dtype == "float16")
    return notes


def _to_torch(made: _Model, path: Path) -> list[str]:
    two = tuple(torch.cat([one[:1]] * 2) for one in made.example)
    copy = plain(made.model)
    with quietly():
        program = followed(copy, two)
        if made.dtype != "float32":
            raise ModelError(f".pt2 files are exported in float32, not {made.dtype}")
        torch.export.save(program, path)
    return ["weights are dense: the format knows no integers with steps"] if made.codes else []


def _to_safetensors(made: _Model, path: Path) -> list[str]:
    from safetensors.torch import save_file

    kind = getattr(torch, made.dtype)
    state = plain(made.model).state_dict()
    held = {name: (t.to(kind) if t.dtype == torch.float32 else t).contiguous().clone() for name, t in state.items()}
    save_file(held, path)
    return ["weights alone, dense: no runtime runs the file, so no outputs were compared"]


FORMATS: dict[str, Any] = {
    ".onnx": _to_onnx,
    ".xml": _to_openvino,
    ".pt2": _to_torch,
    ".safetensors": _to_safetensors,
}


def _difference(made: _Model, path: Path) -> float:
    """Raises ModelError where it is larger than it may be."""
    model, session = plain(made.model), Session(path)
    expected = outputs_of(model, made.example)
    found = session(*made.example)
    found = found if isinstance(found, tuple) else (found,)
    worst = max(_relative(one, other) for one, other in zip(found, expected, strict=True))
    most = max(TOLERANCE[made.dtype], ROUNDED if rounds_inputs(made.model) else 0)
    if not worst <= most:
        raise ModelError(f"{session.runtime} computes other outputs than PyTorch: {worst:.2g} of their size apart")
    return worst


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    if not expected.numel():
        return 0.0
    size = expected.double().square().mean().sqrt().clamp(min=1e-30)
    return float((found.double() - expected.double()).square().mean().sqrt() / size)
