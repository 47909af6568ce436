"""Uniform: every entry is a whole number of steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.core.stage import Phase
from tersenet.forms.codebook import Precision, rounded, to_tables
from tersenet.forms.form import Form, refuse_nan, register_form, stream
from tersenet.forms.signs import along, rows
from tersenet.forms.tables import dtype_name, from_table, shaped


class OnGrid(torch.autograd.Function):
    """step · round(clip(latent / step, low, low + levels − 1)); steps and lows are [rows].

    Gradients: of the latent, that of the result where it lies within the range, else 0 (straight-through, clipped); of
    a step, those of its entries times round(v) − v within, low below and high above (Esser et al. 2020, "Learned Step
    Size Quantization", arXiv 1902.08153, eq. 3 and 5), scaled by 1/√(entries · high) (§2.2), the entries that share
    the step, where `entries` does not say how many count.
    """

    @staticmethod
    def forward(
        ctx: Any,
        latent: torch.Tensor,
        step: torch.Tensor,
        low: torch.Tensor,
        levels: int,
        axis: int | None = None,
        entries: int | None = None,
    ) -> torch.Tensor:
        ctx.save_for_backward(latent, step, low)
        ctx.levels, ctx.axis, ctx.entries = levels, axis, entries
        numbers = _numbers(latent, step, low, levels, axis)
        return numbers.mul_(along(step, latent.ndim, axis)).add_(0.0).to(latent.dtype)  # −0 becomes +0

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        latent, step, low = ctx.saved_tensors
        ratio, least = latent / along(step, latent.ndim, ctx.axis), along(low, latent.ndim, ctx.axis)
        inside = (ratio >= least) & (ratio <= least + (ctx.levels - 1))
        of_latent = torch.where(inside, gradients[0], 0)
        if not ctx.needs_input_grad[1]:
            return of_latent, None, None, None, None, None
        clipped = ratio.clamp(least, least + (ctx.levels - 1))
        slope = torch.where(inside, ratio.round() - ratio, clipped) * gradients[0]
        entries, high = ctx.entries or latent.numel() // max(len(step), 1), (low + (ctx.levels - 1)).clamp(min=1)
        of_step = rows(slope, ctx.axis).sum(1) / (entries * high).sqrt()
        return of_latent, of_step.to(step.dtype), None, None, None, None


def _numbers(
    latent: torch.Tensor, step: torch.Tensor, low: torch.Tensor, levels: int, axis: int | None
) -> torch.Tensor:
    """n of each entry, in the steps' type, which is never shorter than float32."""
    least = along(low, latent.ndim, axis)
    return (latent / along(step, latent.ndim, axis)).clamp_(least, least + (levels - 1)).round_()


@register_form("uniform")
class Uniform(Form):
    """A weight of whole numbers n times a step, low ≤ n < low + levels, with one step and low for all or one for each
    place along an axis.

    The latent is the weight in full, and rounding is nearest, halves to even, with straight-through gradients. The zero
    point of an affine grid is −low: zero is always n = 0, so what is pruned is exactly zero.

    step: [rows], positive; rows is 1, or the size of `axis`. low: integers [rows], not above 0 and above −levels.
    learned: the steps are parameters (LSQ).
    support: entries outside are zero, for ever. precision: of the steps, in which the forward computes.
    """

    phase = Phase.VALUES
    step: torch.Tensor
    low: torch.Tensor
    mask: torch.Tensor | None

    def __init__(
        self,
        step: torch.Tensor,
        low: torch.Tensor,
        levels: int,
        *,
        axis: int | None = None,
        learned: bool = False,
        support: torch.Tensor | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        step = step.to(torch.promote_types(step.dtype, torch.float32))
        if levels < 2 or (low.numel() and not -levels < int(low.min()) <= int(low.max()) <= 0):
            raise ValueError(f"{levels} levels must hold zero")
        self.levels, self.axis, self.precision = levels, axis, precision
        self.register_buffer("low", low.detach().to(torch.int32).clone())
        if learned:
            self.step = nn.Parameter(step.detach().clone())
        else:
            self.register_buffer("step", step.detach().clone())
        self.register_buffer("mask", None if support is None else support.detach().to(torch.bool).clone())

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = OnGrid.apply(  # type: ignore[no-untyped-call]
            latent, self._steps(), self.low, self.levels, self.axis
        )
        return weight if self.mask is None else torch.where(self.mask, weight, 0)

    def _steps(self) -> torch.Tensor:
        """As stored. A learned one that has crossed zero counts by its size; none leaves what its precision holds."""
        holds = torch.finfo(torch.float16 if self.precision == "float16" else torch.float32)
        return rounded(self.step.abs().clamp(holds.tiny, holds.max), self.precision)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def numbers(self, latent: torch.Tensor) -> torch.Tensor:
        """n of each entry, int32, shape of the weight."""
        steps = self._steps().detach()
        found = _numbers(latent.detach(), steps, self.low, self.levels, self.axis).to(torch.int32)
        return found if self.mask is None else torch.where(self.mask, found, 0)

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'index': 0 for n = 0, then the negative n, then the positive ones; the steps, and lows, as tables."""
        refuse_nan(latent)
        found, low = self.numbers(latent), along(self.low, latent.ndim, self.axis)
        symbols = (found - low).add_(found < 0).mul_(found != 0)
        streams = {"index": Symbols(symbols.reshape(-1).cpu().numpy().astype(np.int32), self.levels, zero=True)}
        axis = -1 if self.axis is None else self.axis
        tables = {**to_tables(self._steps(), self.precision), "low": self.low.cpu().numpy().astype(np.int32)}
        same = self.low.numel() > 0 and bool((self.low == self.low[0]).all())
        options = {"axis": axis, **({"low": int(tables.pop("low")[0])} if same else {})}
        return Code("uniform", tuple(latent.shape), streams, tables, options, dtype_name(latent.dtype))

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        symbols, step = stream(code, "index"), _step(code)
        axis = code.options.get("axis", -1)
        size = code.shape[axis] if 0 <= axis < len(code.shape) else 1
        if axis < -1 or axis >= len(code.shape) or step.numel() != size:
            raise ArtifactError(f"{step.numel()} steps along axis {axis} make no weight of shape {tuple(code.shape)}")
        place = None if axis == -1 else axis
        low = along(_lows(code, size), len(code.shape), place)
        found = shaped(torch.from_numpy(symbols.values), code.shape)
        numbers = (found + low).sub_((found <= -low).to(torch.int32)).mul_(found != 0)
        own = from_table(np.zeros(0, np.float32), code.dtype).dtype
        wide = torch.promote_types(step.dtype, own)
        return numbers.to(wide).mul_(along(step.to(wide), len(code.shape), place)).to(own)

    @property
    def support(self) -> torch.Tensor | None:
        return self.mask

    @property
    def distinct(self) -> int:
        return (self.levels - 1) * len(self.step) + 1


def _step(code: Code) -> torch.Tensor:
    """The steps, in float32 or, of float64 weights, in that: the type in which the forward computes."""
    found = code.tables.get("codebook")
    if found is None or found.dtype not in (np.float16, np.float32, np.float64):
        raise ArtifactError("a weight of form 'uniform' needs its steps, as floats")
    return from_table(found, "float64" if found.dtype == np.float64 else "float32")


def _lows(code: Code, size: int) -> torch.Tensor:
    """The least n of each row, int32 [rows]."""
    if "low" in code.options:
        return torch.full((size,), code.options["low"], dtype=torch.int32)
    found = code.tables.get("low")
    if found is None or found.dtype != np.int32 or found.shape != (size,):
        raise ArtifactError(f"a weight of form 'uniform' needs {size} lows")
    return torch.from_numpy(found.copy())
