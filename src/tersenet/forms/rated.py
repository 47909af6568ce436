"""Rated: whole numbers of a learned step, with an estimate of the bits that a coder will spend on them."""

from __future__ import annotations

from math import log

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

    def bits(self, latent: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Estimated bits of all entries, a scalar with gradients; `generator`, on the CPU, draws the noise."""
        noise = torch.rand(latent.shape, generator=generator).to(latent.device) - 0.5
        found = laplace_bits(latent.float() / self.log_step.exp() + noise, self._log_scales(latent.shape))
        return found.sum() if self.mask is None else found[self.mask].sum()

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


def laplace_bits(x: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """−log₂ of the integral from x − ½ to x + ½ of the Laplace density around 0 with scale b = exp(log_scale).

    With a = |x|: from ½ on, the integral is exp(−(a − ½)/b)·(1 − exp(−1/b)) / 2; below, it is
    1 − (exp(−(½ − a)/b) + exp(−(½ + a)/b)) / 2. Finite for every x and b, and so are its gradients.
    """
    size, inverse = x.abs(), (-log_scale).exp().clamp(max=1e4)
    beyond = (size - 0.5).clamp(min=0)
    tail = beyond * inverse + log(2) - torch.log(-torch.expm1(-inverse))
    near = (size.clamp(max=0.5) - 0.5) * inverse
    inside = -torch.log1p(-0.5 * (near.exp() + (near - 2 * size.clamp(max=0.5) * inverse).exp()).clamp(max=2 - 1e-6))
    return torch.where(size < 0.5, inside, tail) / log(2)


def _numbers(latent: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return (latent / step).clamp_(-HIGHEST, HIGHEST).round_()


def _factors(shape: torch.Size) -> list[int]:
    """Rows, columns, and places of a kernel; none for a vector."""
    if len(shape) < 2:
        return []
    places = int(torch.Size(shape[2:]).numel())
    return [shape[0], shape[1], *([places] if places > 1 else [])]
