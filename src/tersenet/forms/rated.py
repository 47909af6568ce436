"""Rated: whole numbers of a learned step, with the bits that a coder will spend on them."""

from __future__ import annotations

from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tersenet.core.code import Code
from tersenet.core.stage import Phase
from tersenet.forms.codebook import Precision, rounded
from tersenet.forms.form import Form, refuse_nan
from tersenet.forms.uniform import Uniform

HIGHEST = 2**15
"""No number is larger; where one would be, the step is far too small."""


SEEN = 5.0
"""A row, column or place of which nothing is known is taken for as dense as the whole, as if it had seen so many."""


class Rated(Form):
    """A weight of whole numbers n times one step, which is learned, in a training whose loss has the bits of n in it.

    The bits are those of a code that, like the coder of the file, knows the density of each row, column and place of a
    kernel from all the other numbers in it (`_Bits`). Training for them instead of coding afterwards is of Oktay et al.
    2020, "Scalable Model Compression by Entropy Penalized Reparameterization", arXiv 1906.06624, and Ballé et al. 2017,
    arXiv 1611.01704, who learn a density and add noise in place of rounding; here nothing is learned but what is coded.

    In the file it is a uniform form; it lives while the rate is trained.

    log_step: logarithm of the step. support: entries outside are zero, for ever, and take no bits here.
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
        self.log_step = nn.Parameter(torch.tensor([log(step)], device=weight.device))
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

    def bits(self, latent: torch.Tensor) -> torch.Tensor:
        """Of all entries as they are rounded now, a scalar with gradients."""
        shape = latent.shape if latent.ndim > 1 else (1, *latent.shape)
        mask = None if self.mask is None else self.mask.view(shape)
        return coded_bits((latent.float() / self.log_step.exp()).view(shape), mask)

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


class _Bits(torch.autograd.Function):
    """Bits of round(x), and how they change with x where rounding is blurred.

    A number is zero or not with the odds that its row, column and place suggest, each seen without the number itself,
    one sign, and a size that is geometric: with `jump` for the first step away from zero (on top of what zero takes)
    and `slope` for each one more, C(x) = jump·min(|x|, 1) + slope·max(|x| − 1, 0) joins the whole numbers by lines.
    The gradient is that of C under noise of one step's width, C(x + ½) − C(x − ½): what rounding costs on average
    (Ballé et al. 2017, eq. 7), without drawing the noise. The odds change with the numbers too; as they fit these as
    well as they can, that is of second order. Where zeros are rarer than that, as in a weight that nothing was taken
    from yet, `slope` pulls in place of `jump`: a code to which zero is no more than any other number leads nowhere.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        size = x.abs() if mask is None else x.abs() * mask
        numbers = size.round()
        flags = numbers != 0
        logit = _logits(flags, mask)
        nonzero, excess = flags.sum(), (numbers - 1).clamp_(min=0).sum()
        more = (excess + 1) / (excess + nonzero + 2)
        slope, least = -more.log2(), 1 - torch.log1p(-more) / log(2)
        zeros = F.softplus(logit)
        jump = logit.div_(-log(2)).add_(least)
        total = (zeros if mask is None else zeros * mask).sum() / log(2) + (jump * flags).sum() + slope * excess
        away = torch.minimum(2 * size, 1.5 - size).clamp_(min=0)
        pull = away.mul_(torch.maximum(jump, slope)).addcmul_(size.sub_(0.5).clamp_(0, 1), slope)
        ctx.save_for_backward(pull.mul_(x.sign()))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (pull,) = ctx.saved_tensors
        return gradients[0] * pull, None


def coded_bits(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Bits that the whole numbers next to `x` take, a scalar with gradients. x: two dimensions or more, in steps; mask:
    of that shape, entries that are coded."""
    found: torch.Tensor = _Bits.apply(x, mask)  # type: ignore[no-untyped-call]
    return found


def _logits(flags: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """ln p / (1 − p) of each entry not to be zero: of all, plus how far its row, its column and its place each differ,
    as they are without it."""
    count = flags.numel() if mask is None else mask.sum()
    overall = _logit((flags.sum() + 0.4) / (count + 0.8))
    found = overall.expand(flags.shape).clone()
    for kept in _contexts(flags.shape):
        others = [axis for axis in range(flags.ndim) if axis not in kept]
        ones = flags.sum(others, keepdim=True)
        total = flags.numel() // max(ones.numel(), 1) if mask is None else mask.sum(others, keepdim=True)
        prior = SEEN * overall.sigmoid()
        zero, one = (_logit((ones - own).clamp(min=0).add(prior) / (total - 1 + SEEN)) - overall for own in (0, 1))
        found += torch.where(flags, one, zero)
    return found


def _contexts(shape: torch.Size) -> list[tuple[int, ...]]:
    """Axes of a row, of a column and of a place."""
    return [(0,), (1,), *([tuple(range(2, len(shape)))] if shape[2:].numel() > 1 else [])]


def _logit(p: torch.Tensor) -> torch.Tensor:
    return p.clamp(1e-6, 1 - 1e-6).logit()


def _numbers(latent: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return (latent / step).clamp_(-HIGHEST, HIGHEST).round_()
