"""Codebooks, in full or rounded to fewer bytes: the forward computes with exactly what the file will hold."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from tersenet.core.code import Code
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.forms.form import table
from tersenet.forms.tables import from_table, to_table

Precision = Literal["float32", "float16", "int8"]
"""float32 stands for the weight's own type; int8: n/127 of the largest magnitude, n in −127…127."""


class _Rounded(torch.autograd.Function):
    """The values as they will be stored; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, precision: Precision) -> torch.Tensor:
        if precision == "float16":
            return values.half().to(values.dtype)
        integers, scale = _integers(values)
        return _from_integers(integers, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def rounded(values: torch.Tensor, precision: Precision) -> torch.Tensor:
    """`values` as the file will give them back, with straight-through gradients."""
    if precision == "float32":
        return values
    found: torch.Tensor = _Rounded.apply(values, precision)  # type: ignore[no-untyped-call]
    return found


def to_tables(values: torch.Tensor, precision: Precision) -> dict[str, np.ndarray]:
    """Table 'codebook', and for int8 'scale', the largest magnitude. Raises ModelError for what float16 cannot hold."""
    values = values.detach()
    if precision == "int8":
        integers, scale = _integers(values)
        return {"codebook": to_table(integers), "scale": to_table(scale.reshape(1))}
    stored = values.half() if precision == "float16" else values
    if bool((stored.isinf() & ~values.isinf()).any()):
        raise ModelError(f"{float(values.abs().max()):.3g} in its codebook is too large for float16; use float32")
    return {"codebook": to_table(stored)}


def from_tables(code: Code) -> torch.Tensor:
    """What `rounded` gave, one dimension. Raises ArtifactError for tables that are none of these."""
    if "scale" not in code.tables:
        return table(code, "codebook")
    scale, integers = table(code, "scale"), code.tables.get("codebook")
    if integers is None or integers.dtype != np.int8 or scale.numel() != 1 or not scale.is_floating_point():
        raise ArtifactError("a codebook with a scale must be of int8, with one scale")
    return _from_integers(from_table(integers, "int8"), scale[0])


def _integers(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = values.abs().max() if values.numel() else values.new_zeros(())
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(values / scale * 127).to(torch.int8), scale


def _from_integers(integers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """n/127 first: then the largest magnitude comes back exactly, and rounding again changes nothing."""
    return integers.to(scale.dtype) / 127 * scale
