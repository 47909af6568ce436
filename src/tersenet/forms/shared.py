"""Shared: every entry is one of a few values, which the entries of one code share and train together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.core.stage import Phase
from tersenet.forms.codebook import Precision, from_tables, rounded, to_tables
from tersenet.forms.form import Form, refuse_nan, register_form, stream
from tersenet.forms.tables import dtype_name, shaped


class _Lookup(torch.autograd.Function):
    """values[code] at `places`, zero elsewhere; the gradient of a value is the sum over the entries that have it."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, code: torch.Tensor, places: torch.Tensor | None, shape: torch.Size
    ) -> torch.Tensor:
        ctx.save_for_backward(code, places)
        ctx.codes, ctx.dtype = values.numel(), values.dtype
        entries = values.index_select(0, code)
        if places is not None:
            entries = entries.new_zeros(shape.numel()).index_copy_(0, places, entries)
        return entries.reshape(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        code, places = ctx.saved_tensors
        return sum_by_code(gradients[0], code, places, ctx.codes).to(ctx.dtype), None, None, None


def sum_by_code(entries: torch.Tensor, code: torch.Tensor, places: torch.Tensor | None, codes: int) -> torch.Tensor:
    """Sums of the entries of each of `codes` codes, float64 [codes]; `code` is that of the entries at `places`, [m].

    The order of summation is fixed, on the CPU whatever the number of threads, and on the GPU, so that a run repeats.
    """
    flat = entries.detach().reshape(-1)
    members = (flat if places is None else flat.index_select(0, places)).double()
    sums = members.new_zeros(codes)
    if flat.is_cuda:  # index_add_ adds in any order there; index_put_ sorts first
        return sums.index_put_((code.long(),), members, accumulate=True)
    return sums.index_add_(0, code, members)


@register_form("shared")
class Shared(Form):
    """A weight of at most k values (Han et al. 2016, "Deep Compression", arXiv 1510.00149, §3).

    The latent is the codebook, k values; the entries' codes are buffers. The gradient of a value is the sum of its
    members' gradients (§3.3, figure 3).

    index: integers, shape of the weight. Without `zero` in [0, k); with it, 0 means exactly zero, for ever, and
        1…k mean codebook[0…k−1].
    codes: k.
    precision: the forward uses the values rounded to it, gradients straight through, and so they are stored.
    """

    phase = Phase.VALUES
    code: torch.Tensor
    places: torch.Tensor | None

    def __init__(self, index: torch.Tensor, codes: int, *, zero: bool, precision: Precision = "float32") -> None:
        super().__init__()
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < codes + zero:
            raise ValueError(f"codes must lie in [0, {codes + zero})")
        self.codes, self.zero, self.precision, self.shape = codes, zero, precision, index.shape
        flat = index.detach().reshape(-1).to(torch.int32)
        # With a zero code only the others are kept, with their places: most of a pruned weight needs no work then.
        places = flat.nonzero().reshape(-1) if zero else None
        self.register_buffer("places", places)
        self.register_buffer("code", flat.clone() if places is None else flat[places] - 1)

    @property
    def index(self) -> torch.Tensor:
        """The codes in the weight's shape, as given: int32."""
        if self.places is None:
            return self.code.reshape(self.shape)
        flat = self.code.new_zeros(self.shape.numel())
        return flat.index_copy_(0, self.places, self.code + 1).reshape(self.shape)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
            rounded(latent, self.precision), self.code, self.places, self.shape
        )
        return weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The mean of each code's members [k], which is the least-squares codebook; of equal members, exactly that."""
        sums = sum_by_code(weight, self.code, self.places, self.codes)
        counts = sum_by_code(torch.ones_like(weight), self.code, self.places, self.codes)
        return (sums / counts.clamp(min=1)).to(weight.dtype)

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'index', and the tables of the codebook."""
        refuse_nan(latent.detach())
        symbols = self.index.reshape(-1).cpu().numpy().astype(np.int32)
        streams = {"index": Symbols(symbols, max(self.codes + self.zero, 1), zero=self.zero)}
        tables = to_tables(latent, self.precision)
        return Code("shared", tuple(self.index.shape), streams, tables, {}, dtype_name(latent.dtype))

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        symbols, values = stream(code, "index"), from_tables(code)
        values = torch.cat([values.new_zeros(1), values]) if symbols.zero else values
        if symbols.values.size and int(symbols.values.max()) >= values.numel():
            raise ArtifactError(f"code {int(symbols.values.max())} lies outside its codebook of {values.numel()}")
        return shaped(values[torch.from_numpy(symbols.values).long()], code.shape)

    @property
    def support(self) -> torch.Tensor | None:
        return self.index != 0 if self.zero else None

    @property
    def distinct(self) -> int:
        return self.codes + self.zero
