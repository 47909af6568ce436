"""Ternary: every entry is zero or one of two values."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.stage import Phase
from tersenet.forms.form import Form, refuse_nan, register_form
from tersenet.forms.signs import along, decode_signs, encode_signs, row_means, rows, scaled, signs_of, two_valued

Of = Literal["mean", "largest", "share"]
"""What the threshold multiplies: the mean of |latent|, the largest; or it is the share of entries that become zero."""


class _Fixed(torch.autograd.Function):
    """±scale from signs that are given; the gradient passes as it is (TWN, §2.3), within the support."""

    @staticmethod
    def forward(
        ctx: Any,
        latent: torch.Tensor,
        signs: torch.Tensor,
        scale: torch.Tensor,
        mask: torch.Tensor | None,
        axis: int | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(mask)
        return scaled(signs, scale, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return gradients[0] if mask is None else torch.where(mask, gradients[0], 0), None, None, None, None


class _Trained(torch.autograd.Function):
    """Two learned values from signs that are given (TTQ, eq. 7 and 8).

    That of a value is the sum over the entries that have it; as `negative` is −W_n, this holds for both. Latents get
    the gradient times W_p where positive, W_n where negative, as it is where zero; none outside the support.
    """

    @staticmethod
    def forward(
        ctx: Any,
        latent: torch.Tensor,
        signs: torch.Tensor,
        negative: torch.Tensor,
        positive: torch.Tensor,
        mask: torch.Tensor | None,
        axis: int | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(signs, negative, positive, mask)
        ctx.axis = axis
        return two_valued(signs, negative, positive, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        signs, negative, positive, mask = ctx.saved_tensors
        gradient, axis, ndim = gradients[0], ctx.axis, signs.ndim
        above, below = (side.to(gradient.dtype).mul_(gradient) for side in (signs > 0, signs < 0))
        sums = [rows(side, axis).sum(1) for side in (below, above)]
        latent = gradient.sub(above).sub_(below)  # that of the zeros
        latent.add_(above.mul_(along(positive, ndim, axis))).sub_(below.mul_(along(negative, ndim, axis)))
        return latent if mask is None else torch.where(mask, latent, 0), None, *sums, None, None


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
        if self.negative is not None:
            values = (self.negative, self.positive)
            weight: torch.Tensor = _Trained.apply(latent, signs, *values, self.mask, self.axis)  # type: ignore[no-untyped-call]
        else:
            scale = self._scale(latent.detach(), signs)
            weight = _Fixed.apply(latent, signs, scale, self.mask, self.axis)  # type: ignore[no-untyped-call]
        return weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight itself; of one that has learned values, its signs, whatever the size of the two values."""
        weight = self._masked(weight)
        if self.negative is None or self.positive is None:
            return weight
        negative, positive = (along(v.detach(), weight.ndim, self.axis) for v in (self.negative, self.positive))
        zero, above = weight == 0, weight == positive
        signs = torch.where(zero, 0, torch.where(above, 1, -1)).to(weight.dtype)
        return signs if bool((zero | above | (weight == negative)).all()) else weight

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'sign'; tables 'negative' and 'positive' if learned, else 'scale'."""
        refuse_nan(latent)
        signs = self._signs(latent.detach())
        if self.negative is None or self.positive is None:
            tables = {"scale": self._scale(latent.detach(), signs)}
        else:
            tables = {"negative": self.negative.detach(), "positive": self.positive.detach()}
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
        """int8: −1, 0, 1; 0 outside of the support."""
        delta = along(self._threshold(rows(latent, self.axis)), latent.ndim, self.axis)
        signs = signs_of(latent > delta, latent < -delta)
        return signs if self.mask is None else signs.mul_(self.mask.view(torch.int8))

    def _threshold(self, entries: torch.Tensor) -> torch.Tensor:
        """Δ [rows] from latents [rows, n]."""
        if self.of == "mean":
            return self.threshold * row_means(entries, None if self.mask is None else rows(self.mask, self.axis))
        largest = torch.maximum(entries.amax(dim=1), -entries.amin(dim=1))
        if self.of == "largest":
            return self.threshold * largest
        zeros = round(self.threshold * entries.shape[1])
        highest = largest * (1 - torch.finfo(entries.dtype).eps)  # so that something is left, also of equal entries
        return entries.abs().kthvalue(zeros, dim=1).values.minimum(highest) if zeros else torch.zeros_like(largest)

    def _scale(self, latent: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        """α of each row [rows]."""
        return row_means(rows(signs.to(latent.dtype).mul_(latent), self.axis), rows(signs, self.axis) != 0)

    def _means(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means of what lies below and above the threshold [rows]; a side without entries mirrors the other."""
        signs, entries = rows(self._signs(weight), self.axis), rows(weight, self.axis)
        below, above = (row_means(entries * (signs == side), signs == side) for side in (-1, 1))
        return -torch.where(below > 0, below, above), torch.where(above > 0, above, below)

    def _masked(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.mask is None else torch.where(self.mask, tensor, 0)
