"""Shared: every entry is one of a few values, which the entries of one code share and train together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.core.stage import Phase
from tersenet.forms.form import Form, refuse_nan, register_form, stream, table
from tersenet.forms.tables import dtype_name, shaped, to_table


class _Lookup(torch.autograd.Function):
    """table[index]; the gradient of a code's value is the sum over the entries that have it."""

    @staticmethod
    def forward(ctx: Any, codebook: torch.Tensor, index: torch.Tensor, zero: bool, half: bool) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.codes, ctx.zero, ctx.dtype = codebook.numel(), zero, codebook.dtype
        values = codebook.half().to(codebook.dtype) if half else codebook
        values = torch.cat([values.new_zeros(1), values]) if zero else values
        return values.index_select(0, index.reshape(-1)).reshape(index.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (index,) = ctx.saved_tensors
        return sum_by_code(gradients[0], index, ctx.codes, ctx.zero).to(ctx.dtype), None, None, None


def sum_by_code(entries: torch.Tensor, index: torch.Tensor, codes: int, zero: bool) -> torch.Tensor:
    """Sums of the entries of each of `codes` codes, float64 [codes]; with `zero`, code 0 is left out.

    The order of summation is fixed, on the CPU whatever the number of threads, and on the GPU, so that a run repeats.
    """
    flat, members = entries.detach().reshape(-1).double(), index.reshape(-1)
    length = codes + zero
    if flat.is_cuda:  # bincount adds in any order there, index_put_ sorts first
        sums = flat.new_zeros(length).index_put_((members.long(),), flat, accumulate=True)
    else:
        sums = torch.bincount(members, weights=flat, minlength=length)
    return sums[int(zero) :]


@register_form("shared")
class Shared(Form):
    """A weight of at most k values (Han et al. 2016, "Deep Compression", arXiv 1510.00149, §3).

    The latent is the codebook, k values; the entries' codes are a buffer. The gradient of a value is the sum of its
    members' gradients (§3.3, figure 3).

    index: integers, shape of the weight. Without `zero` in [0, k); with it, 0 means exactly zero, for ever, and
        1…k mean codebook[0…k−1].
    codes: k.
    half: the forward uses the values rounded to float16, gradients straight through, so that they are stored in two
        bytes each.
    """

    phase = Phase.VALUES
    index: torch.Tensor

    def __init__(self, index: torch.Tensor, codes: int, *, zero: bool, half: bool = False) -> None:
        super().__init__()
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < codes + zero:
            raise ValueError(f"codes must lie in [0, {codes + zero})")
        self.codes, self.zero, self.half_precision = codes, zero, half
        self.register_buffer("index", index.detach().to(torch.int32).clone())

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = _Lookup.apply(latent, self.index, self.zero, self.half_precision)  # type: ignore[no-untyped-call]
        return weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The mean of each code's members [k], which is the least-squares codebook; of equal members, exactly that."""
        sums = sum_by_code(weight, self.index, self.codes, self.zero)
        counts = sum_by_code(torch.ones_like(weight), self.index, self.codes, self.zero)
        return (sums / counts.clamp(min=1)).to(weight.dtype)

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'index', and a table 'codebook' in float16 or the weight's type."""
        values = latent.detach()
        refuse_nan(values)
        stored = values.half() if self.half_precision else values
        if bool((stored.isinf() & ~values.isinf()).any()):
            raise ModelError(f"{float(values.abs().max()):.3g} in its codebook is too large for float16; use float32")
        symbols = self.index.reshape(-1).cpu().numpy().astype(np.int32)
        streams = {"index": Symbols(symbols, max(self.codes + self.zero, 1), zero=self.zero)}
        tables = {"codebook": to_table(stored)}
        return Code("shared", tuple(self.index.shape), streams, tables, {}, dtype_name(latent.dtype))

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        symbols, values = stream(code, "index"), table(code, "codebook")
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
