"""Layers of a model that compute with kernels, on weights as a file holds them; the dense ones are never made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.forms.form import stream, table
from tersenet.runtime.engine import Kernel, compile_linear
from tersenet.runtime.kernels.geometry import Geometry
from tersenet.runtime.kernels.lowered import LoweredConv2d

Forward = Callable[[torch.Tensor], torch.Tensor]


def kernels_of(
    model: nn.Module, codes: Mapping[str, Code], aliases: Mapping[str, str]
) -> tuple[dict[str, Kernel | LoweredConv2d], list[str]]:
    """{layer: its kernel} of the linear layers and convolutions of `model` for which there is one, with a sentence on
    each of the others. aliases: names of shared weights, which stay with torch."""
    several = {*aliases, *aliases.values()}
    found: dict[str, Kernel | LoweredConv2d] = {}
    notes = []
    for name, layer in model.named_modules():
        weight = f"{name}.weight"
        if type(layer) not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) or weight not in codes:
            continue
        try:
            if weight in several:
                raise ModelError("several layers share its weight")
            found[name] = _kernel(layer, codes[weight])
        except ModelError as error:
            notes.append(f"{name} computes in torch: {error}")
    return found, notes


def _kernel(layer: nn.Module, code: Code) -> Kernel | LoweredConv2d:
    if isinstance(layer, nn.Linear):
        return compile_linear(code)
    if isinstance(layer, nn.Conv2d):
        return lowered(code, Geometry.of(layer))
    raise ModelError(f"there is no kernel for {type(layer).__name__}")


def lowered(code: Code, geometry: Geometry) -> LoweredConv2d:
    """Of a masked weight [filters, channels, height, width] the rows and columns that hold anything (Wen et al. 2016,
    arXiv 1608.03665, §3.1). Raises ModelError for other forms, and where every row and column holds something."""
    if code.form != "masked" or len(code.shape) != 4:
        raise ModelError(f"no kernel computes convolutions with a weight of form '{code.form}'")
    filters, channels, *_ = code.shape
    kept = stream(code, "mask").values.reshape(filters, -1) != 0
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    if len(rows) * len(columns) == kept.size:
        raise ModelError("no filter and no column of the lowered matrix is empty")
    matrix = np.zeros((len(rows), len(columns)), np.float32)
    matrix[kept[np.ix_(rows, columns)]] = table(code, "values").float().numpy()
    return LoweredConv2d(matrix, rows, columns, filters, channels, geometry)


def put(model: nn.Module, kernels: Mapping[str, Kernel | LoweredConv2d]) -> nn.Module:
    """`model`, whose layers named in `kernels` have no weight any more and compute with the kernel; hooks stay."""
    for name, kernel in kernels.items():
        layer = model.get_submodule(name)
        layer.register_parameter("weight", None)
        layer.forward = _image(kernel, layer) if isinstance(kernel, LoweredConv2d) else _rows(kernel, layer)
    return model


def _rows(kernel: Kernel, layer: nn.Module) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        found = torch.from_numpy(kernel(x.detach().reshape(-1, kernel.columns).numpy()))
        found = found.reshape(*x.shape[:-1], kernel.rows)
        return found if layer.bias is None else found + layer.bias  # type: ignore[operator]

    return forward


def _image(kernel: LoweredConv2d, layer: nn.Module) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        found = torch.from_numpy(kernel(x.detach().numpy()))
        return found if layer.bias is None else found + layer.bias[:, None, None]  # type: ignore[index]

    return forward
