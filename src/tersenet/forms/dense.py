"""Dense: every entry a number of its own."""

from __future__ import annotations

import torch

from tersenet.core.code import Code
from tersenet.core.stage import Phase
from tersenet.forms.form import Form, refuse_nan, register_form, table
from tersenet.forms.tables import dtype_name, shaped, to_table


@register_form("dense")
class Dense(Form):
    """The weight as it is; the form of every tensor that no stage has touched."""

    phase = Phase.SHAPE

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return latent

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def encode(self, latent: torch.Tensor) -> Code:
        return encode_dense(latent)

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        return shaped(table(code, "values"), code.shape)


def encode_dense(tensor: torch.Tensor, precision: torch.dtype | None = None) -> Code:
    """One table 'values'. With `precision`, a wider float tensor is rounded to it if that changes no entry by more than
    its 2^-10th part, or 2^-16th of the largest entry: what is too large or too small for it stays as it is.

    Raises ModelError where the tensor holds NaN.
    """
    refuse_nan(tensor)
    stored = tensor.detach()
    if precision is not None and stored.is_floating_point() and stored.itemsize > precision.itemsize:
        rounded = stored.to(precision)
        stored = rounded if _near(rounded.double(), stored.double()) else stored
    return Code("dense", tuple(tensor.shape), {}, {"values": to_table(stored)}, {}, dtype_name(tensor.dtype))


def _near(rounded: torch.Tensor, exact: torch.Tensor) -> bool:
    same = rounded == exact  # also infinities
    exact = exact.masked_fill(same, 0)
    allowed = exact.abs() * 2**-10 + (exact.abs().max() * 2**-16 if exact.numel() else 0)
    return bool((same | ((rounded - exact).abs() <= allowed)).all())
