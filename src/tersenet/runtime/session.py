"""A model at work in a runtime: one call for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tersenet.core.errors import DataError, ModelError
from tersenet.runtime.extras import needed
from tersenet.runtime.plain import Inputs, outputs_of

Runtime = Literal["torch", "onnx", "openvino", "kernels"]
RUNTIMES: tuple[Runtime, ...] = ("torch", "onnx", "openvino", "kernels")

SUFFIXES = {".onnx": ("onnx", "openvino"), ".xml": ("openvino",), ".pt2": ("torch",)}
"""Which runtimes read a file, the usual one first."""


class Session:
    """`source`, loaded by a runtime, as a function of its inputs.

    source: an .onnx, .xml (OpenVINO) or .pt2 file, or a module, for torch and for kernels, which are then in it already
    (`runtime.layers`). threads: 0 is the runtime's own choice. notes: what is not as one may expect.
    Raises ModelError where the runtime is not installed, does not read such a file, or cannot load it.
    """

    def __init__(
        self,
        source: str | Path | nn.Module,
        runtime: str | None = None,
        *,
        threads: int = 0,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.notes = notes
        kinds: tuple[str, ...] = (
            ("torch", "kernels") if isinstance(source, nn.Module) else SUFFIXES.get(Path(source).suffix, ())
        )
        if not kinds:
            raise ModelError(f"{source}: no runtime reads it; export it to {', '.join(SUFFIXES)} first")
        self.runtime = runtime or kinds[0]
        if self.runtime not in kinds:
            raise ModelError(f"runtime '{self.runtime}' does not read {source}; {' and '.join(kinds)} can")
        if not isinstance(source, nn.Module) and not Path(source).is_file():
            raise ModelError(f"{source}: no such file")
        self._run, self.inputs = _OPEN[self.runtime](source, threads)

    def __call__(self, *inputs: Any) -> Any:
        """The output, or a tuple of them: numpy arrays of numpy inputs, else tensors.

        Raises DataError for an input of a wrong shape or type."""
        arrays = tuple(one.numpy(force=True) if isinstance(one, torch.Tensor) else np.asarray(one) for one in inputs)
        self._check(arrays)
        try:
            outputs = self._run(arrays)
        except ModelError as error:  # torch's, with the shapes
            raise DataError(str(error)) from None
        except RuntimeError as error:
            raise DataError(f"{self.runtime} cannot compute with {_shapes(arrays)}: {_first(error)}") from None
        if any(isinstance(one, torch.Tensor) for one in inputs):
            tensors = tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in outputs)
            return tensors[0] if len(tensors) == 1 else tensors
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _check(self, arrays: Sequence[np.ndarray]) -> None:
        """`self.inputs` are (shape, type), of which None is any; torch knows none before it computes."""
        if self.inputs is None:
            return
        if len(arrays) != len(self.inputs):
            raise DataError(f"the model takes {len(self.inputs)} inputs, not {len(arrays)}")
        for array, (shape, dtype) in zip(arrays, self.inputs, strict=True):
            fits = len(shape) == array.ndim and all(
                want is None or want == got for want, got in zip(shape, array.shape, strict=True)
            )
            if not fits or dtype != array.dtype.name:
                wanted = "×".join("batch" if side is None else str(side) for side in shape)
                raise DataError(f"the model takes {wanted} {dtype}, not {_shapes([array])}")


AS_WRITTEN = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""OpenVINO computes what the file says; else it may round to bfloat16, or inputs to eight bits."""

Opened = tuple[Callable[[Sequence[np.ndarray]], list[np.ndarray]], "list[tuple[list[int | None], str]] | None"]


def _open_torch(source: Any, threads: int) -> Opened:
    own = isinstance(source, nn.Module)
    source = source.eval() if own else torch.export.load(source).module()  # type: ignore[no-untyped-call]

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        before = torch.get_num_threads()
        if threads and threads != before:
            torch.set_num_threads(threads)
        try:
            found: Inputs = outputs_of(source, tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in arrays))
        finally:
            if threads and threads != before:
                torch.set_num_threads(before)
        return [one.numpy(force=True) for one in found]

    return run, None


def _open_onnx(source: Any, threads: int) -> Opened:
    runtime = needed("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    # threads that wait for more work in a loop would slow whatever the process does between two calls
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not _has_integers(source):  # else a weight would be turned into floats at each call
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = runtime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a class of its own for each kind
        raise ModelError(f"{source}: ONNX Runtime cannot load it: {_first(error)}") from None
    inputs = session.get_inputs()
    types = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(bool)": "bool"}
    known = [
        (
            [side if isinstance(side, int) else None for side in one.shape],
            types.get(one.type, one.type.removeprefix("tensor(").removesuffix(")")),
        )
        for one in inputs
    ]

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            return list(session.run(None, {one.name: array for one, array in zip(inputs, arrays, strict=True)}))
        except Exception as error:
            raise RuntimeError(_first(error)) from None

    return run, known


def _has_integers(source: Any) -> bool:
    """Whether inputs of layers are rounded in the file."""
    onnx = needed("onnx")
    try:
        nodes = onnx.load(str(source), load_external_data=False).graph.node
    except Exception as error:  # protobuf's own
        raise ModelError(f"{source}: is no ONNX file: {_first(error)}") from None
    return any(node.op_type == "QuantizeLinear" for node in nodes)


def _open_openvino(source: Any, threads: int) -> Opened:
    openvino = needed("openvino")
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **AS_WRITTEN}
    options |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
    try:
        compiled = openvino.Core().compile_model(str(source), "CPU", options)
    except RuntimeError as error:
        raise ModelError(f"{source}: OpenVINO cannot load it: {_first(error)}") from None
    request = compiled.create_infer_request()
    known = [
        (
            [side.get_length() if side.is_static else None for side in port.partial_shape],
            port.element_type.to_dtype().name,
        )
        for port in compiled.inputs
    ]

    outputs = range(len(compiled.outputs))

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        request.infer(list(arrays), share_inputs=True)
        return [np.array(request.get_output_tensor(place).data) for place in outputs]

    return run, known


_OPEN: dict[str, Callable[[Any, int], Opened]] = {
    "torch": _open_torch,
    "kernels": _open_torch,
    "onnx": _open_onnx,
    "openvino": _open_openvino,
}


def _shapes(arrays: Sequence[np.ndarray]) -> str:
    return " and ".join(f"{'×'.join(map(str, array.shape)) or 'scalar'} {array.dtype.name}" for array in arrays)


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
