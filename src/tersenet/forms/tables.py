"""Torch tensors as numpy tables and back, bit for bit; types numpy lacks travel as the integers of their bits."""

from __future__ import annotations

import math

import numpy as np
import torch

from tersenet.core.errors import ArtifactError, ModelError

_BITS = {
    torch.bfloat16: torch.uint16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.complex64: torch.float32,  # pairs: real, imaginary
    torch.complex128: torch.float64,
    torch.bool: torch.uint8,
}
_PLAIN = (
    *(torch.float16, torch.float32, torch.float64),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)
_BY_NAME = {spelling: dtype for dtype in (*_BITS, *_PLAIN) if (spelling := str(dtype).removeprefix("torch."))}


def dtype_name(dtype: torch.dtype) -> str:
    """'float32' for torch.float32. Raises ModelError for a type that no file can hold."""
    name = str(dtype).removeprefix("torch.")
    if name not in _BY_NAME:
        raise ModelError(f"tensors of type {name} cannot be stored; convert them to float32 first")
    return name


def to_table(tensor: torch.Tensor) -> np.ndarray:
    """The entries in order, one dimension, in their own type or as their bits (bfloat16 → uint16)."""
    dtype_name(tensor.dtype)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    bits = _BITS.get(flat.dtype)
    return (flat if bits is None else flat.view(bits)).numpy().copy()


def from_table(table: np.ndarray, dtype: str) -> torch.Tensor:
    """What `to_table` got, one dimension; a float table of another width is converted.

    Raises ArtifactError for a dtype that is not known or does not go with the table.
    """
    wanted = _BY_NAME.get(dtype)
    if wanted is None:
        raise ArtifactError(f"a tensor has the unknown type '{dtype[:40]}'")
    stored = torch.from_numpy(np.array(table, copy=True)).reshape(-1)
    if stored.dtype == wanted:
        return stored
    if stored.dtype == _BITS.get(wanted):
        return stored.view(wanted) if not wanted.is_complex or len(stored) % 2 == 0 else _mismatch(table, dtype)
    if stored.is_floating_point() and wanted.is_floating_point:
        return stored.to(wanted)
    return _mismatch(table, dtype)


def shaped(flat: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`flat` in `shape`; raises ArtifactError where the number of entries differs."""
    if any(size < 0 for size in shape) or flat.numel() != math.prod(shape):
        raise ArtifactError(f"{flat.numel()} entries do not fill a tensor of shape {tuple(shape)}")
    return flat.reshape(shape)


def _mismatch(table: np.ndarray, dtype: str) -> torch.Tensor:
    raise ArtifactError(f"a table of {table.dtype} cannot hold a tensor of type {dtype}")
