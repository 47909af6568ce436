"""Ternary: every entry is zero or one of two values."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.stage import Phase
from tersenet.forms.form import Form, refuse_nan, register_form
from tersenet.forms.signs import along, decode_signs, encode_signs, row_means, rows, valued

Of = Literal["mean", "largest", "share"]
"""What the threshold multiplies: the mean of |latent|, the largest; or it is the share of entries that become zero."""


class _Ternarize(torch.autograd.Function):
    """Values from signs that are given.

    Learned values (TTQ, eq. 7 and 8): that of a value is the sum over the entries that have it. Latents get g times
    W_p where positive, W_n where negative, 1 where zero. Otherwise (TWN): g as it is. None passes outside the support.
    """

    @staticmethod
    def forward(
        ctx: Any,
        latent: torch.Tensor,
        negative: torch.Tensor,
        positive: torch.Tensor,
        signs: torch.Tensor,
        mask: torch.Tensor | None,
        axis: int | None,
        learned: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(negative, positive, signs, mask)
        ctx.axis, ctx.learned = axis, learned
        return valued(signs, negative, positive, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        negative, positive, signs, mask = ctx.saved_tensors
        gradient, axis = gradients[0], ctx.axis
        passed = gradient if mask is None else torch.where(mask, gradient, 0)
        if not ctx.learned:
            return passed, None, None, None, None, None, None
        below, above = signs < 0, signs > 0
        sums = [rows(gradient * side, axis).sum(1, dtype=torch.float64).to(negative.dtype) for side in (below, above)]
        factor = torch.where(above, along(positive, signs.ndim, axis), 1)
        factor = torch.where(below, -along(negative, signs.ndim, axis), factor)
        return passed * factor, *sums, None, None, None, None


@register_form("ternary")
class Ternary(Form):
    """A weight of at most three values: `negative` below −Δ, zero between, `positive` above Δ, by its latent.

    Ternary weight networks (Li & Liu 2016, arXiv 1605.04711, eq. 3 to 6): Δ = 0.7·mean |latent|, and the values are ±α
    with α the mean of |latent| above Δ. Trained ternary quantization (Zhu et al. 2017, arXiv 1612.01064, eq. 6 to 9):
    Δ = 0.05·max |latent|, and the values −W_n and W_p are parameters. Means are over the support.

    shape: of the weight.
    threshold, of: Δ is `threshold` times the mean or the largest |latent|; or such that this share is zero, pruned
        entries counted (TTQ, §4.2: constant sparsity r); the largest stay.
    axis: along which each place has Δ and values of its own; None: one of each for all.
    support: bool, that shape; None: all entries.
    start: a weight whose means on either side the learned values start from; None: values ±α, not learned.
    """

    phase = Phase.VALUES
    mask: torch.Tensor | None
    negative: nn.Parameter | None
    positive: nn.Parameter | None

    def __init__(
        self,
        shape: torch.Size,
        threshold: float = 0.7,
        of: Of = "mean",
        *,
        axis: int | None = None,
        support: torch.Tensor | None = None,
        start: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.threshold, self.of, self.axis = threshold, of, axis
        self.scales = 1 if axis is None else shape[axis]
        self.register_buffer("mask", None if support is None else support.detach().to(torch.bool).clone())
        negative, positive = (None, None) if start is None else self._means(self._masked(start.detach()))
        self.register_parameter("negative", None if negative is None else nn.Parameter(negative))
        self.register_parameter("positive", None if positive is None else nn.Parameter(positive))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        signs = self._signs(latent.detach())
        negative, positive = self._values(latent.detach(), signs)
        weight: torch.Tensor = _Ternarize.apply(  # type: ignore[no-untyped-call]
            latent, negative, positive, signs, self.mask, self.axis, self.negative is not None
        )
        return weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight itself; of one that has learned values, its signs, whatever the size of the two values."""
        weight = self._masked(weight)
        if self.negative is None or self.positive is None:
            return weight
        negative, positive = (along(v.detach(), weight.ndim, self.axis) for v in (self.negative, self.positive))
        below, above = (weight == negative) & (weight != 0), (weight == positive) & (weight != 0)
        held = bool((below | above | (weight == 0)).all())
        return above.to(weight.dtype) - below.to(weight.dtype) if held else weight

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'sign'; tables 'negative' and 'positive' if learned, else 'scale'."""
        refuse_nan(latent)
        signs = self._signs(latent.detach())
        negative, positive = self._values(latent.detach(), signs)
        tables = {"scale": positive} if self.negative is None else {"negative": negative, "positive": positive}
        return encode_signs(self.name, signs, tables, self.axis, latent.dtype, zero=True)

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        return decode_signs(code)

    @property
    def support(self) -> torch.Tensor | None:
        """What was pruned before. A zero of its own is a value like the others: its latent may leave it."""
        return self.mask

    @property
    def distinct(self) -> int:
        return 2 * self.scales + 1

    def _signs(self, latent: torch.Tensor) -> torch.Tensor:
        """int8: −1, 0, 1."""
        size = latent.abs()
        kept = size > along(self._threshold(rows(size, self.axis)), latent.ndim, self.axis)
        return latent.sign().to(torch.int8) * kept.to(torch.int8)

    def _threshold(self, size: torch.Tensor) -> torch.Tensor:
        """Δ [rows] from |latent| [rows, n], in which pruned entries are zero."""
        if self.of == "mean":
            return self.threshold * row_means(size, None if self.mask is None else rows(self.mask, self.axis))
        largest = size.amax(dim=1)
        if self.of == "largest":
            return self.threshold * largest
        zeros = round(self.threshold * size.shape[1])
        highest = largest * (1 - torch.finfo(size.dtype).eps)  # so that something is left, also of equal entries
        return size.kthvalue(zeros, dim=1).values.minimum(highest) if zeros else torch.zeros_like(largest)

    def _values(self, latent: torch.Tensor, signs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative and positive value of each row [rows]."""
        if self.negative is not None and self.positive is not None:
            return self.negative, self.positive
        kept = rows(signs, self.axis) != 0
        alpha = row_means(rows(latent.abs(), self.axis) * kept, kept)
        return -alpha, alpha

    def _means(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means of what lies below and above the threshold [rows]; a side without entries mirrors the other."""
        signs, entries = rows(self._signs(weight), self.axis), rows(weight, self.axis)
        negative, positive = (row_means(entries * (signs == side), signs == side) for side in (-1, 1))
        return torch.where(negative < 0, negative, -positive), torch.where(positive > 0, positive, -negative)

    def _masked(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.mask is None else torch.where(self.mask, tensor, 0)
