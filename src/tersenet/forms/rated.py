"""Rated: whole numbers of a learned step, with an estimate of the bits that a coder will spend on them."""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.stage import Phase
from tersenet.forms.codebook import Precision, rounded
from tersenet.forms.form import Form, refuse_nan
from tersenet.forms.uniform import Uniform

HIGHEST = 2**15
"""No number is larger; where one would be, the step is far too small."""


class Rated(Form):
    """A weight of whole numbers n times one step, which is learned, as is what the numbers are likely to be.

    The estimate is of Ballé, Laparra and Simoncelli 2017, "End-to-end Optimized Image Compression", arXiv 1611.01704,
    eq. 7 to 9: uniform noise in place of rounding, and −log₂ of the density's integral over one step. Here the density
    is a Laplace distribution around zero whose log-scale is a sum of one term for the weight, one for each row, column
    and place of the kernel. Nothing of it is stored: an adaptive coder finds it again in what it has already coded.

    In the file it is a uniform form; it lives while the rate is trained.

    log_step: logarithm of the step. log_scale, terms: of the scale, in steps. support: entries outside are zero, for
    ever, and take no bits here.
    """

    name = "uniform"
    phase = Phase.VALUES
    mask: torch.Tensor | None
    spread: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        step: float,
        *,
        support: torch.Tensor | None = None,
        precision: Precision = "float16",
    ) -> None:
        super().__init__()
        self.precision = precision
        spread = float(weight.detach().float().abs().mean()) / step
        start = torch.tensor([log(step), log(max(spread, 0.05))], device=weight.device)
        self.log_step, self.log_scale = nn.Parameter(start[:1].clone()), nn.Parameter(start[1].clone())
        sizes = _factors(weight.shape)
        self.terms = nn.ParameterList(nn.Parameter(torch.zeros(size, device=weight.device)) for size in sizes)
        golden = torch.arange(weight.numel(), dtype=torch.float64).mul_((sqrt(5) - 1) / 2).frac_()
        self.register_buffer("spread", golden.to(weight.device, torch.float32).view(weight.shape), persistent=False)
        self.register_buffer("mask", None if support is None else support.detach().to(torch.bool).clone())

    @property
    def step(self) -> torch.Tensor:
        """[1], as it will be stored."""
        return rounded(self.log_step.exp(), self.precision)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Rounded, with straight-through gradients: of the latent that of the result, of the step that times
        round(w / step) − w / step (LSQ without its scaling, so that loss and bits are weighed as they are)."""
        step = self.step
        numbers = _numbers(latent.detach(), step.detach())
        value = (numbers * step.detach()).add_(0.0).to(latent.dtype)
        passed = latent - latent.detach() + (numbers - latent.detach() / step.detach()) * (step - step.detach())
        weight = value + passed.to(latent.dtype)  # what is passed is zero
        return weight if self.mask is None else torch.where(self.mask, weight, 0)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def bits(self, latent: torch.Tensor, noise: float) -> torch.Tensor:
        """Estimated bits of all entries, a scalar with gradients.

        noise: in [0, 1), drawn anew for each step. It turns the multiples of the golden ratio modulo one, so that each
        entry's noise is uniform over the steps, and that of the entries evenly spread in each.
        """
        shift = (self.spread + noise).frac_().sub_(0.5)
        x = torch.addcdiv(shift, latent.float(), self.log_step.exp())
        found = laplace_bits(x, self._log_scales(latent.shape))
        return found.sum() if self.mask is None else (found * self.mask).sum()

    def _log_scales(self, shape: torch.Size) -> torch.Tensor:
        """Broadcasts over the weight."""
        total = self.log_scale
        for place, term in enumerate(self.terms):
            if place < 2:
                total = total + term.reshape([-1 if axis == place else 1 for axis in range(len(shape))])
            else:
                total = total + term.reshape(1, 1, *shape[2:])
        return total

    def plain(self, latent: torch.Tensor) -> Uniform:
        """The form that stays: as many levels as there are numbers between the least and the largest."""
        found = _numbers(latent.detach(), self.step.detach())
        found = found if self.mask is None else torch.where(self.mask, found, 0)
        low, high = (int(found.min()), int(found.max())) if found.numel() else (0, 0)
        low, high = min(low, 0), max(high, 0)
        levels = max(high - low + 1, 2)
        lows = torch.tensor([low], dtype=torch.int32)
        return Uniform(self.step.detach(), lows, levels, support=self.mask, precision=self.precision)

    def encode(self, latent: torch.Tensor) -> Code:
        refuse_nan(latent)
        return self.plain(latent).to(latent.device).encode(latent)

    @property
    def support(self) -> torch.Tensor | None:
        return self.mask

    @property
    def distinct(self) -> int:
        return 2 * HIGHEST + 1


class _LaplaceBits(torch.autograd.Function):
    """Bits and both derivatives at once, for they share nearly all that is to be computed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        size, inverse = x.abs(), log_scale.neg().exp_().clamp_(max=1e4)
        inner = size.clamp(max=0.5)
        beyond = size.sub_(inner)
        near = (inner - 0.5).mul_(inverse).expm1_()
        far = (inner + 0.5).mul_(inverse).neg_().expm1_()
        double = (near + far).neg_()  # 2·P
        slope = near.sub_(far).div_(double)
        bits = (beyond * inverse).sub_(double.log()).add_(log(2)).div_(log(2))
        by_inverse = beyond.addcmul_(inner, slope).add_(0.5).sub_(double.reciprocal_())
        by_scale = by_inverse.mul_(inverse).div_(-log(2))
        by_x = slope.mul_(inverse).div_(log(2)).copysign_(x)
        ctx.save_for_backward(by_x, by_scale)
        return bits

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        by_x, by_scale = ctx.saved_tensors
        return gradients[0] * by_x, gradients[0] * by_scale


def laplace_bits(x: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """−log₂ of the integral from x − ½ to x + ½ of the Laplace density around 0 with scale b = exp(log_scale).

    With i = min(|x|, ½) it is (|x| − i) / (b·ln 2) − log₂ P, where P = −½·(expm1((i − ½)/b) + expm1(−(i + ½)/b)): an
    integral around zero and an exponential tail. Finite for every x and b, and so are its gradients.
    """
    found: torch.Tensor = _LaplaceBits.apply(*torch.broadcast_tensors(x, log_scale))  # type: ignore[no-untyped-call]
    return found


def _numbers(latent: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return (latent / step).clamp_(-HIGHEST, HIGHEST).round_()


def _factors(shape: torch.Size) -> list[int]:
    """Rows, columns, and places of a kernel; none for a vector."""
    if len(shape) < 2:
        return []
    places = int(torch.Size(shape[2:]).numel())
    return [shape[0], shape[1], *([places] if places > 1 else [])]
