"""Weights of two or three values: a sign for each entry and one or two numbers for each row, in forms and in codes."""

from __future__ import annotations

import numpy as np
import torch

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.forms.form import refuse_nan, stream, table
from tersenet.forms.tables import dtype_name, from_table, shaped, to_table

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types of weights that can be signs with values."""


def rows(tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    """[rows, entries]: one row for each place along `axis`, or with None one row of all entries."""
    return tensor.reshape(1, -1) if axis is None else tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def row_means(entries: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of each row [rows] of `entries` [rows, n], which are zero where `mask` [rows, n] is False and count there
    for nothing; 0 where the mask keeps none. The mean of equal numbers is exactly that number."""
    counts = entries.shape[1] if mask is None else mask.sum(dim=1).clamp(min=1)
    return (entries.sum(dim=1, dtype=torch.float64) / counts).to(entries.dtype)


def along(values: torch.Tensor, ndim: int, axis: int | None) -> torch.Tensor:
    """Numbers of rows [rows] so that they broadcast over a weight of `ndim` axes."""
    return values.reshape([-1 if place == axis else 1 for place in range(ndim)])


def valued(signs: torch.Tensor, negative: torch.Tensor, positive: torch.Tensor, axis: int | None) -> torch.Tensor:
    """The weight: `positive` [rows] where `signs` (int8, shape of the weight) is 1, `negative` where it is −1, else +0.

    Never −0: a file cannot tell which zeros were which.
    """
    below, above = along(negative, signs.ndim, axis), along(positive, signs.ndim, axis)
    return torch.where(signs > 0, above, torch.where(signs < 0, below, torch.zeros_like(below))) + 0.0


def encode_signs(
    form: str,
    signs: torch.Tensor,
    tables: dict[str, torch.Tensor],
    axis: int | None,
    dtype: torch.dtype,
    *,
    zero: bool,
) -> Code:
    """Stream 'sign'. With `zero`: 0 for zero, 1 for negative, 2 for positive; without: 0 negative, 1 positive.

    tables: 'negative' and 'positive', or 'scale' for both, or none for ±1; [rows] each. Option 'axis', −1 for one row.
    Raises ModelError for NaN in a table.
    """
    for values in tables.values():
        refuse_nan(values)
    flat = signs.reshape(-1).cpu().numpy()
    symbols = np.where(flat < 0, 1, np.where(flat > 0, 2, 0)) if zero else (flat > 0)
    streams = {"sign": Symbols(symbols.astype(np.int32), 3 if zero else 2, zero=zero)}
    stored = {name: to_table(values) for name, values in tables.items()}
    return Code(form, tuple(signs.shape), streams, stored, {"axis": -1 if axis is None else axis}, dtype_name(dtype))


def decode_signs(code: Code) -> torch.Tensor:
    """The weight of `encode_signs`; raises ArtifactError where the code contradicts itself."""
    symbols = stream(code, "sign")
    if symbols.values.size and int(symbols.values.max()) > 1 + symbols.zero:
        raise ArtifactError(f"sign {int(symbols.values.max())} is none of the {2 + symbols.zero} there are")
    meaning = torch.tensor([0, -1, 1] if symbols.zero else [-1, 1], dtype=torch.int8)
    signs = shaped(meaning[torch.from_numpy(symbols.values).long()], code.shape)
    axis = code.options.get("axis", -1)
    if not -1 <= axis < len(code.shape):
        raise ArtifactError(f"a tensor of shape {code.shape} has no axis {axis}")
    negative, positive = _values(code)
    expected = 1 if axis == -1 else code.shape[axis]
    if not negative.numel() == positive.numel() == expected:
        raise ArtifactError(f"{negative.numel()} and {positive.numel()} values do not go with {expected} rows of signs")
    return valued(signs, negative, positive, None if axis == -1 else axis)


def _values(code: Code) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative and positive value of each row."""
    if code.dtype not in FLOATS:
        raise ArtifactError(f"signs with values of type '{code.dtype[:40]}'; this reads {', '.join(FLOATS)}")
    if "positive" in code.tables:
        return table(code, "negative"), table(code, "positive")
    if "scale" in code.tables:
        return -table(code, "scale"), table(code, "scale")
    one = from_table(np.ones(1, np.float32), code.dtype)
    return -one, one
