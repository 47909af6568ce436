"""Masked: some entries are held at zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.core.stage import Phase
from tersenet.forms.form import Form, refuse_nan, register_form, stream, table
from tersenet.forms.tables import dtype_name, shaped, to_table


class _Mask(torch.autograd.Function):
    """w where kept, else zero; the gradient passes where kept, or everywhere if `open_`.

    A zero is always +0: that of a negative w by w·0 would be −0, and a file cannot tell which zeros were which.
    """

    @staticmethod
    def forward(ctx: Any, latent: torch.Tensor, mask: torch.Tensor, open_: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mask, open_)
        return (latent * _bytes(mask).to(latent.dtype)).add_(0.0)  # −0 + 0 = +0

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        mask, open_ = ctx.saved_tensors
        return gradients[0] * (_bytes(mask) | _bytes(open_)).to(gradients[0].dtype), None, None


def _bytes(mask: torch.Tensor) -> torch.Tensor:
    """The same memory as uint8, whose conversion to floats is seven times as fast as that of bool."""
    return mask.view(torch.uint8)


def mask_symbols(mask: torch.Tensor) -> Symbols:
    """A stream of 1 for what is kept and 0 for the rest, in row-major order."""
    return Symbols(mask.reshape(-1).cpu().numpy().astype(np.int32), 2, zero=True)


@register_form("masked")
class Masked(Form):
    """A weight with zeros at fixed places.

    mask: bool, shape of the weight; True where an entry is kept.
    splice: whether the latents of pruned entries go on learning from the gradient of the entry they would be, so that
        they can come back (Guo et al. 2016, "Dynamic Network Surgery", arXiv 1608.04493, eq. 2: W ← W − β·∂L/∂(h⊙W)).
        Otherwise pruned latents are zero and get no gradient.
    """

    phase = Phase.SUPPORT
    mask: torch.Tensor
    splice: torch.Tensor

    def __init__(self, mask: torch.Tensor, splice: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", mask.detach().to(torch.bool).clone())
        self.register_buffer("splice", torch.tensor(splice, device=mask.device))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = _Mask.apply(latent, self.mask, self.splice)  # type: ignore[no-untyped-call]
        return weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight if bool(self.splice) else torch.where(self.mask, weight, 0)

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'mask' (1: kept), and a table 'values' of the kept entries in order."""
        kept = self(latent.detach())[self.mask]
        refuse_nan(kept)
        return Code(
            "masked",
            tuple(latent.shape),
            {"mask": mask_symbols(self.mask)},
            {"values": to_table(kept)},
            {},
            dtype_name(latent.dtype),
        )

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        mask = torch.from_numpy(stream(code, "mask").values != 0)
        values = table(code, "values")
        if int(mask.sum()) != values.numel():
            raise ArtifactError(f"a mask keeps {int(mask.sum())} entries but there are {values.numel()} values")
        flat = torch.zeros(mask.numel(), dtype=values.dtype)
        flat[mask] = values
        return shaped(flat, code.shape)

    @property
    def support(self) -> torch.Tensor:
        return self.mask

    @torch.no_grad()
    def keep(self, mask: torch.Tensor, latent: torch.Tensor) -> None:
        """Make `mask` the mask, in place. Outside splice mode the latents of what is pruned become zero."""
        self.mask.copy_(mask)
        if not bool(self.splice):
            latent.masked_fill_(~self.mask, 0)
