"""A plain tensor as the smallest code that holds it bit for bit: most often dense, but a tensor that is mostly zeros or
takes few values, as after loading a file or pruning with another tool, is stored as what it is."""

from __future__ import annotations

import numpy as np
import torch

from tersenet.core.code import Code, Symbols
from tersenet.forms.dense import encode_dense
from tersenet.forms.form import refuse_nan
from tersenet.forms.shared import Shared
from tersenet.forms.tables import dtype_name, to_table

SAMPLE = 65_536
"""Entries looked at before all of them are sorted."""

_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


def encode_plain(tensor: torch.Tensor) -> Code:
    """Dense, masked or shared, whichever is estimated to take the fewest bytes; `decode` gives the tensor back exactly.

    Raises ModelError where the tensor holds NaN.
    """
    refuse_nan(tensor)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.dtype not in _INTEGERS or not _worth_sorting(flat):
        return encode_dense(tensor)
    patterns = flat.view(_INTEGERS[flat.dtype])
    bits, inverse, counts = torch.unique(patterns, return_inverse=True, return_counts=True)
    values = bits.view(flat.dtype)
    zeros = int(counts[bits == 0].sum())  # of +0 only: −0 is a value like any other
    as_dense = flat.numel() * flat.itemsize
    as_masked = (_entropy_bits(zeros, flat.numel() - zeros) / 8) + (flat.numel() - zeros) * flat.itemsize
    as_shared = (
        (_entropy_bits(*counts.tolist()) / 8) + 2 * len(values) * flat.itemsize if len(values) < 1 << 16 else as_dense
    )
    if as_shared < min(as_masked, as_dense):
        return _shared(tensor, values, bits, inverse)
    return _masked(tensor, flat) if as_masked < as_dense else encode_dense(tensor)


def _worth_sorting(flat: torch.Tensor) -> bool:
    """Whether a sample has zeros or repetitions enough for anything but dense to pay."""
    sample = flat[:: max(1, flat.numel() // SAMPLE)]
    return bool(len(torch.unique(sample)) < 0.9 * len(sample))


def _entropy_bits(*counts: int) -> float:
    """n·H of the empirical distribution."""
    found = np.array([count for count in counts if count], dtype=np.float64)
    return float(-(found * np.log2(found / found.sum())).sum()) if len(found) else 0.0


def _shared(tensor: torch.Tensor, values: torch.Tensor, bits: torch.Tensor, inverse: torch.Tensor) -> Code:
    """With zeros, code 0 is zero; the others follow by value."""
    order = values.double().argsort(stable=True)
    zero = bool((bits == 0).any())
    order = order[bits[order] != 0] if zero else order
    rank = torch.zeros(len(values), dtype=torch.int32)
    rank[order] = torch.arange(zero, len(order) + zero, dtype=torch.int32)
    codebook = values[order]
    half = codebook.half()
    exact = tensor.dtype == torch.float32 and torch.equal(half.float().view(torch.int32), codebook.view(torch.int32))
    return Shared(
        rank[inverse].reshape(tensor.shape), len(codebook), zero=zero, precision="float16" if exact else "float32"
    ).encode(codebook)


def _masked(tensor: torch.Tensor, flat: torch.Tensor) -> Code:
    """Not through `Masked`, whose forward makes −0 a zero like any other."""
    kept = flat.view(_INTEGERS[flat.dtype]) != 0
    mask = Symbols(kept.numpy().astype(np.int32), 2, zero=True)
    return Code(
        "masked", tuple(tensor.shape), {"mask": mask}, {"values": to_table(flat[kept])}, {}, dtype_name(tensor.dtype)
    )
