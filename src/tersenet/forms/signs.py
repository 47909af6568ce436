"""Weights of two or three values: a sign for each entry, and one or two numbers for each row of entries."""

from __future__ import annotations

import numpy as np
import torch

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.forms.form import refuse_nan, stream, table
from tersenet.forms.tables import dtype_name, from_table, shaped, to_table

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types of weights that can be signs with values."""


def rows(tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    """[rows, entries]: one row for each place along `axis`, or with None one row of all entries."""
    return tensor.reshape(1, -1) if axis is None else tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def row_means(entries: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Mean |entry| of each row [rows] of `entries` [rows, n]; of those alone that bool `kept` [rows, n] has, beside
    which there are zeros, and 0 where it has none. The mean of equal numbers is exactly that number, but
    for float64."""
    counts = entries.shape[1] if kept is None else row_counts(kept).clamp(min=1)
    sums: torch.Tensor = torch.linalg.vector_norm(entries, ord=1, dim=1, dtype=torch.float64)
    return (sums / counts).to(entries.dtype)


def row_counts(kept: torch.Tensor) -> torch.Tensor:
    """How many of each row [rows] of bool `kept` [rows, n]; of a single row twenty times as fast as by a sum."""
    return kept.count_nonzero().reshape(1) if len(kept) == 1 else kept.sum(dim=1)


def along(values: torch.Tensor, ndim: int, axis: int | None) -> torch.Tensor:
    """Numbers of rows [rows] so that they broadcast over a weight of `ndim` axes."""
    return values.reshape([-1 if place == axis else 1 for place in range(ndim)])


def signs_of(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """int8: 1 where `above`, −1 where `below` (bool, never both), else 0."""
    return above.view(torch.int8) - below.view(torch.int8)


def scaled(signs: torch.Tensor, scale: torch.Tensor, axis: int | None) -> torch.Tensor:
    """`signs` (int8, shape of the weight) times `scale` [rows]."""
    return signs.to(scale.dtype).mul_(along(scale, signs.ndim, axis))


def two_valued(signs: torch.Tensor, negative: torch.Tensor, positive: torch.Tensor, axis: int | None) -> torch.Tensor:
    """`positive` [rows] where `signs` is 1, `negative` where it is −1, else +0."""
    above = (signs > 0).to(positive.dtype).mul_(along(positive, signs.ndim, axis))
    below = (signs < 0).to(negative.dtype).mul_(along(negative, signs.ndim, axis))
    return above.add_(below).add_(0.0)  # zeros between two values below zero are −0 before


def encode_signs(
    form: str, signs: torch.Tensor, tables: dict[str, torch.Tensor], axis: int | None, dtype: torch.dtype, *, zero: bool
) -> Code:
    """Stream 'sign'. With `zero`: 0 for zero, 1 for negative, 2 for positive; without: 0 negative, 1 positive.

    tables: 'negative' and 'positive', or 'scale' for both, or none for ±1; [rows] each. Option 'axis', −1 for one row.
    Raises ModelError where a table holds NaN or infinity.
    """
    for values in tables.values():
        refuse_nan(values)
        if bool(values.isinf().any()):
            raise ModelError("has a value that is infinite; the training diverged, so lower the learning rate")
    flat = signs.reshape(-1).cpu().numpy()
    symbols = np.where(flat < 0, np.int8(1), flat + flat) if zero else flat > 0
    streams = {"sign": Symbols(symbols.astype(np.int32), 3 if zero else 2, zero=zero)}
    stored = {name: to_table(values) for name, values in tables.items()}
    return Code(form, tuple(signs.shape), streams, stored, {"axis": -1 if axis is None else axis}, dtype_name(dtype))


def decode_signs(code: Code) -> torch.Tensor:
    """The weight of `encode_signs`; raises ArtifactError where the code contradicts itself."""
    symbols = stream(code, "sign")
    if code.dtype not in FLOATS:
        raise ArtifactError(f"a weight of signs has the type '{code.dtype[:40]}', which is none of {', '.join(FLOATS)}")
    if symbols.values.size and int(symbols.values.max()) > 1 + symbols.zero:
        raise ArtifactError(f"sign {int(symbols.values.max())} is none of the {2 + symbols.zero} there are")
    meaning = torch.tensor([0, -1, 1] if symbols.zero else [-1, 1], dtype=torch.int8)
    signs = shaped(meaning[torch.from_numpy(symbols.values).long()], code.shape)
    axis = code.options.get("axis", -1)
    if not -1 <= axis < len(code.shape):
        raise ArtifactError(f"a tensor of shape {code.shape} has no axis {axis}")
    rows = 1 if axis == -1 else code.shape[axis]
    place = None if axis == -1 else axis
    if "positive" in code.tables:
        return two_valued(signs, _values(code, "negative", rows), _values(code, "positive", rows), place)
    if "scale" in code.tables:
        return scaled(signs, _values(code, "scale", rows), place)
    return signs.to(from_table(np.zeros(0, np.float32), code.dtype).dtype)


def _values(code: Code, name: str, rows: int) -> torch.Tensor:
    values = table(code, name)
    if values.numel() != rows:
        raise ArtifactError(f"table '{name}' holds {values.numel()} values for {rows} rows of signs")
    return values
