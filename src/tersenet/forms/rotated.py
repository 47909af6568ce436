"""Rotated: dense floats whose bits are moved up by one, so that their highest byte is the exponent and codes well.

The sign, a coin toss, goes to the lowest bit, among those of the fraction. So does ZipNN (arXiv 2411.05239, section 3).
"""

from __future__ import annotations

import numpy as np
import torch

from tersenet.core.code import Code
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.forms.dense import Dense
from tersenet.forms.form import refuse_nan, register_form
from tersenet.forms.tables import dtype_name, shaped

UNSIGNED = {
    torch.bfloat16: torch.uint16,
    torch.float16: torch.uint16,
    torch.float32: torch.uint32,
    torch.float64: torch.uint64,
}
"""Types that can be rotated, and that of their bits."""

AT_ONCE = 1 << 18


@register_form("rotated")
class Rotated(Dense):
    """The weight as it is, like `dense`; only its bits are stored in another order."""

    def encode(self, latent: torch.Tensor) -> Code:
        refuse_nan(latent)
        return Code("rotated", tuple(latent.shape), {}, {"values": rotated(latent)}, {}, dtype_name(latent.dtype))

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        if "values" not in code.tables:
            raise ArtifactError("a tensor of form 'rotated' lacks its table 'values'")
        return shaped(unrotated(code.tables["values"], code.dtype), code.shape)


def rotated(tensor: torch.Tensor) -> np.ndarray:
    """Unsigned integers, one dimension: the bits of each float, the sign moved to the lowest; NaNs keep theirs.

    Raises ModelError for a type that is not in UNSIGNED.
    """
    kind = UNSIGNED.get(tensor.dtype)
    if kind is None:
        raise ModelError(f"tensors of type {dtype_name(tensor.dtype)} have no sign to move; store them as 'dense'")
    bits = tensor.detach().cpu().contiguous().reshape(-1).view(kind).numpy()
    one, top = bits.dtype.type(1), bits.dtype.type(8 * bits.itemsize - 1)
    found = bits << one
    for begin in range(0, len(bits), AT_ONCE):  # large tensors without another array of their size
        found[begin : begin + AT_ONCE] |= bits[begin : begin + AT_ONCE] >> top
    return np.asarray(found)


def unrotated(table: np.ndarray, dtype: str) -> torch.Tensor:
    """What `rotated` got, one dimension. Raises ArtifactError where `table` does not go with `dtype`."""
    kind = next((kind for kind in UNSIGNED if dtype_name(kind) == dtype), None)
    if kind is None or table.dtype.name != dtype_name(UNSIGNED[kind]):
        raise ArtifactError(f"a table of {table.dtype} cannot hold a rotated tensor of type '{dtype[:40]}'")
    flat = np.ascontiguousarray(table).reshape(-1)
    one, top = flat.dtype.type(1), flat.dtype.type(8 * flat.itemsize - 1)
    found = flat >> one
    for begin in range(0, len(flat), AT_ONCE):
        found[begin : begin + AT_ONCE] |= flat[begin : begin + AT_ONCE] << top
    return torch.from_numpy(found).view(kind)
