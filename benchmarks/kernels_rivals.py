"""Whom `kernels.py` measures beside: torch and ONNX Runtime on dense weights, and sparse libraries."""

from __future__ import annotations

import importlib.util

import numpy as np
import scipy.sparse
import torch
from kernels_page import DENSE
from sections import Calls
from torch import nn

from tersenet.runtime.kernels.geometry import Geometry


def linear(weight: np.ndarray, x: np.ndarray) -> Calls:
    held, inputs = torch.from_numpy(weight), torch.from_numpy(x)
    return {DENSE: lambda: nn.functional.linear(inputs, held)}


def convolution(weight: np.ndarray, x: np.ndarray, geometry: Geometry | None = None) -> Calls:
    """geometry: by default that of the weight, in steps of one and without padding."""
    held, images = torch.from_numpy(weight), torch.from_numpy(x)
    stride, padding = (geometry.stride, geometry.padding) if geometry else (1, 0)
    return {DENSE: lambda: nn.functional.conv2d(images, held, stride=stride, padding=padding)}


def onnx(kind: str, weight: np.ndarray, x: np.ndarray, geometry: Geometry | None = None) -> Calls:
    """A call of ONNX Runtime for one MatMul or Conv, with as many threads as torch; none where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        return {}
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    held = np.ascontiguousarray(weight.T) if kind == "MatMul" else weight
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    where = {"strides": geometry.stride, "pads": geometry.padding * 2} if geometry else {}
    node = helper.make_node(kind, ["x", "w"], ["y"], **where)
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], [numpy_helper.from_array(held, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    ready = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {"ONNX Runtime": lambda: ready.run(None, {"x": x})[0]}


def sparse_libraries(weight: np.ndarray, x: np.ndarray) -> Calls:
    csr, turned, held = scipy.sparse.csr_matrix(weight), np.ascontiguousarray(x.T), torch.from_numpy(weight)
    compressed, columns = held.to_sparse_csr(), torch.from_numpy(turned)
    return {"SciPy CSR": lambda: (csr @ turned).T, "torch CSR": lambda: (compressed @ columns).T}
