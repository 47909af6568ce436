"""Binary: every entry is one of two values, ±1 or ±α."""

from __future__ import annotations

from typing import Any

import torch

from tersenet.core.code import Code
from tersenet.core.stage import Phase
from tersenet.forms.form import Form, refuse_nan, register_form
from tersenet.forms.signs import along, decode_signs, encode_signs, row_counts, row_means, rows, scaled, signs_of


class _Binarize(torch.autograd.Function):
    """±1, or ±scale, from signs that are given; gradients straight through the sign.

    ±1: ∂L/∂v = g / bound, since v / bound is what the sign stands for (BinaryConnect, algorithm 1, for bound 1).
    ±α with α = mean |v| of n entries: the product rule, ∂L/∂v_i = α·g_i + sign(v_i)/n · Σ_j g_j·sign(v_j). (XNOR-Net,
    §3.1, prints the sum with its own term only, though α moves all entries of its row.) None passes outside the
    support.
    """

    @staticmethod
    def forward(
        ctx: Any,
        latent: torch.Tensor,
        signs: torch.Tensor,
        scale: torch.Tensor | None,
        mask: torch.Tensor | None,
        axis: int | None,
        bound: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(signs, scale, mask)
        ctx.axis, ctx.bound = axis, bound
        return signs.to(latent.dtype) if scale is None else scaled(signs, scale, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        signs, scale, mask = ctx.saved_tensors
        gradient, axis, rest = gradients[0], ctx.axis, (None,) * 5
        passed = gradient if mask is None else torch.where(mask, gradient, 0)
        if scale is None:
            return passed if ctx.bound == 1 else passed / ctx.bound, *rest
        sign = signs.to(gradient.dtype)
        count = signs.numel() // len(scale) if mask is None else row_counts(rows(mask, axis)).clamp(min=1)
        moved = rows(gradient * sign, axis).sum(1) / count
        through = passed * along(scale, signs.ndim, axis)
        return through.add_(sign.mul_(along(moved, signs.ndim, axis))), *rest


@register_form("binary")
class Binary(Form):
    """A weight of two values, and of zeros where `support` is False.

    Without a scale ±1 (Courbariaux et al. 2015, "BinaryConnect", arXiv 1511.00363): the latents lie in
    [−bound, bound], and the gradient is divided by `bound`, which is what the paper's scale of the learning rate
    comes to (§2.5): times 1/bound for Adam and 1/bound² for SGD. With a scale ±α, where α is the mean of |latent|
    (Rastegari et al. 2016, "XNOR-Net", arXiv 1603.05279, eq. 6). A latent of zero counts as positive.

    shape: of the weight.
    support: bool, that shape; None: all entries.
    scaled: whether there is an α.
    axis: along which each place has an α of its own; None: one for all.
    bound: of the latents.
    real: outside of training mode the weight is latent / bound, clipped, in place of its sign (§2.6, second method);
        for the time of a training only, as a code holds signs.

    While `draw` is not negative and the form is in training mode, signs are drawn (§2.2, eq. 2 and 3): +1 with
    probability clip((latent / bound + 1) / 2, 0, 1), the same ones whenever `draw` is the same.
    """

    phase = Phase.VALUES
    mask: torch.Tensor | None
    draw: torch.Tensor

    def __init__(
        self,
        shape: torch.Size,
        *,
        support: torch.Tensor | None = None,
        scaled: bool = False,
        axis: int | None = None,
        bound: float = 1.0,
        real: bool = False,
    ) -> None:
        super().__init__()
        if axis is not None and not scaled:
            raise ValueError("an axis is that of scales")
        self.scaled, self.axis, self.bound, self.real = scaled, axis, bound, real
        self.scales = 1 if axis is None else shape[axis]
        self.register_buffer("mask", None if support is None else support.detach().to(torch.bool).clone())
        self.register_buffer("draw", torch.tensor(-1, dtype=torch.int64))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        if self.real and not self.training:
            return self._masked((latent / self.bound).clamp(-1, 1))
        signs = self._drawn(latent.detach()) if self.training and int(self.draw) >= 0 else self._signs(latent.detach())
        scale = self._scale(latent.detach()) if self.scaled else None
        weight: torch.Tensor = _Binarize.apply(  # type: ignore[no-untyped-call]
            latent, signs, scale, self.mask, self.axis, self.bound
        )
        return weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight; without a scale, times what brings its largest entry to the bound."""
        if self.scaled:
            return self._masked(weight)
        largest = weight.abs().max().clamp(min=torch.finfo(weight.dtype).tiny)
        return self._masked((weight / largest).mul_(self.bound))

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'sign'; a table 'scale' where there is one."""
        refuse_nan(latent)
        tables = {"scale": self._scale(latent.detach())} if self.scaled else {}
        signs = self._signs(latent.detach())
        return encode_signs(self.name, signs, tables, self.axis, latent.dtype, zero=self.mask is not None)

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        return decode_signs(code)

    @property
    def support(self) -> torch.Tensor | None:
        return self.mask

    @property
    def distinct(self) -> int:
        return 2 * self.scales + (self.mask is not None)

    @torch.no_grad()
    def clip(self, latent: torch.Tensor) -> None:
        """Bring the latents back into [−bound, bound], in place."""
        latent.clamp_(-self.bound, self.bound)

    def _signs(self, latent: torch.Tensor) -> torch.Tensor:
        """int8: 1, −1, or 0 outside of the support."""
        return self._within(latent >= 0)

    def _drawn(self, latent: torch.Tensor) -> torch.Tensor:
        """The same with chance: a uniform number in [−bound, bound) lies below the latent with the probability that is
        wanted, clipped where the latent lies outside."""
        generator = torch.Generator(latent.device).manual_seed(int(self.draw))
        uniform = torch.rand(latent.shape, generator=generator, dtype=torch.float32, device=latent.device)
        return self._within(uniform.mul_(2 * self.bound).sub_(self.bound) < latent)

    def _within(self, positive: torch.Tensor) -> torch.Tensor:
        signs = signs_of(positive, ~positive)
        return signs if self.mask is None else signs.mul_(self.mask.view(torch.int8))

    def _scale(self, latent: torch.Tensor) -> torch.Tensor:
        """α of each row [rows]."""
        return row_means(
            rows(self._masked(latent), self.axis), None if self.mask is None else rows(self.mask, self.axis)
        )

    def _masked(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.mask is None else torch.where(self.mask, tensor, 0)
