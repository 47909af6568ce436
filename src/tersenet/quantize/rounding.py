"""Adaptive rounding: up or down, whichever keeps the layer's outputs, in place of to the nearest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field

from tersenet.core.config import Config
from tersenet.core.stage import RunContext
from tersenet.forms import Uniform, latent_of
from tersenet.forms.codebook import rounded
from tersenet.forms.signs import along
from tersenet.quantize.calibration import Calibration, Call, Layer

ZETA, GAMMA = 1.1, -0.1
"""The rectified sigmoid reaches from γ to ζ before it is cut to [0, 1] (eq. 23)."""

WARMUP = 0.2
"""Share of the steps before roundings are pushed towards 0 and 1."""

BETA = (20.0, 2.0)
"""From the first step of that to the last (eq. 24)."""

ROWS = 256
"""Of a layer's inputs in each step."""

MOST_COLUMNS = 12_000
"""Inputs of one output, up to which single roundings are changed in the end: it takes a square matrix of them."""


class Adaptive(Config):
    """How the roundings of a layer are found."""

    steps: int = Field(500, ge=1, description="of Adam, for each layer")
    lr: float = Field(0.03, gt=0, description="its learning rate")
    penalty: float = Field(
        1.0, gt=0, description="λ of roundings that are neither up nor down; errors count in steps of a typical input"
    )
    samples: int = Field(4096, ge=1, description="positions of each layer's output that are looked at")


class AdaptiveRounding:
    """Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, eq. 21–25.

    Layer by layer, what it reads in the model as quantized so far, and what it gave in the model as it was when this
    object was made (eq. 25, with the identity as activation function). In the end single roundings are changed as long
    as that lowers the error. Of each output the result is kept where its error on the data is less than that of
    rounding to nearest.

    """

    def __init__(self, calibration: Calibration, options: Adaptive, context: RunContext) -> None:
        self.calibration, self.options, self.context = calibration, options, context
        self.given: dict[Layer, list[torch.Tensor]] = {layer: [] for layer in calibration.layers}
        calibration.watch(calibration.layers, lambda call: self.given[call.layer].append(self._given(call)))

    def adapt(self, layer: Layer, form: Uniform, *, centred: bool) -> None:
        """Set the latent of `layer`, which has just got `form`, so that rounding to nearest gives the choice found.

        centred: a bias will be corrected afterwards and take the mean error of each output, which so does not count.
        """
        latent, read = latent_of(layer.target), list[torch.Tensor]()
        self.calibration.watch([layer], lambda call: read.append(call.rows_read(self._at(call))))
        x, y = torch.cat(read, 1), torch.cat(self.given.pop(layer), 1)
        if centred:
            x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        problem = problem_of(form, latent.detach(), layer.matrix, x, y)
        found = solve(problem, self.options, self.context.generator("rounding", layer.target.name))
        if torch.equal(found, problem.nearest):
            self.context.note(f"{layer.target.name} is rounded to nearest: no other rounding was found to err less")
            return
        up = (problem.base + found).reshape(latent.shape)
        step = along(rounded(form.step.detach(), form.precision), latent.ndim, form.axis)
        with torch.no_grad():
            latent.copy_(torch.where(up == form.numbers(latent), latent, (up * step).to(latent.dtype)))

    def _given(self, call: Call) -> torch.Tensor:
        return call.rows_given(self._at(call))

    def _at(self, call: Call) -> torch.Tensor:
        """Positions of the output, the same ones each time."""
        rows = len(call.outputs)
        most = -(-self.options.samples // (call.layer.calls * len(self.calibration.batches)))
        if rows <= most:
            return torch.arange(rows, device=call.y.device)
        generator = self.context.generator("positions", call.layer.target.name, call.number)
        return torch.randperm(rows, generator=generator)[:most].to(call.y.device)


@dataclass(frozen=True, eq=False)
class Problem:
    """Σ_outputs mean_rows (x·(base + h)ᵀ − y)² over h in {0, 1}, 0 where not `free`.

    x (parts, rows, columns), of mean square 1; y (parts, rows, outputs), in steps; base, free, start and nearest
    (parts, outputs, columns): start is the h in (0, 1) that gives the weight itself, nearest that of rounding to
    nearest.
    """

    x: torch.Tensor
    y: torch.Tensor
    base: torch.Tensor
    free: torch.Tensor
    start: torch.Tensor
    nearest: torch.Tensor

    def errors(self, h: torch.Tensor) -> torch.Tensor:
        """(parts, outputs)"""
        return (self.x @ (self.base + h).mT - self.y).square().mean(1)


def problem_of(
    form: Uniform,
    latent: torch.Tensor,
    matrix: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
) -> Problem:
    """Of a weight with this form. x (parts, rows, columns) and y (parts, rows, outputs): read and to be given."""
    steps = along(rounded(form.step.detach(), form.precision), latent.ndim, form.axis)
    low = along(form.low, latent.ndim, form.axis)
    ratio = latent / steps
    base, top = (n.clamp(low, low + form.levels - 1) for n in (ratio.floor(), ratio.floor() + 1))
    free = top > base if form.mask is None else (top > base) & form.mask
    base = torch.where(free, base, form.numbers(latent))
    tensors = (base, free.to(base), ratio - ratio.floor(), form.numbers(latent) - base)
    size = x.float().square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    scale = matrix(steps.expand_as(latent))[..., 0]  # of each output
    parts = (matrix(tensor).float() for tensor in tensors)
    return Problem(x.float() / size, y.float() / (size * scale[:, None]).float(), *parts)


def solve(problem: Problem, options: Adaptive, generator: torch.Generator) -> torch.Tensor:
    """h of 0 and 1, (parts, outputs, columns); in no output worse than nearest."""
    found = improved(problem, relaxed(problem, options, generator))
    better = problem.errors(found) < problem.errors(problem.nearest)
    return torch.where(better[..., None], found, problem.nearest)


def relaxed(problem: Problem, options: Adaptive, generator: torch.Generator) -> torch.Tensor:
    """h by gradient descent over real numbers that are pushed to 0 and 1 more and more."""
    share = ((problem.start - GAMMA) / (ZETA - GAMMA)).clamp(1e-6, 1 - 1e-6)
    v = torch.logit(share).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=options.lr)
    rows = problem.x.shape[1]
    with torch.enable_grad():
        for step in range(options.steps):
            at = torch.randint(rows, (ROWS,), generator=generator).to(v.device) if rows > ROWS else torch.arange(rows)
            h = _rectified(v) * problem.free
            loss = (problem.x[:, at] @ (problem.base + h).mT - problem.y[:, at]).square().mean(1).sum()
            if (beta := _beta(step / options.steps)) is not None:
                loss = loss + options.penalty * ((1 - (2 * h - 1).abs().pow(beta)) * problem.free).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return (_rectified(v.detach()) >= 0.5) * problem.free


def _rectified(v: torch.Tensor) -> torch.Tensor:
    """h(V), eq. 23."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def _beta(progress: float) -> float | None:
    """β of eq. 24, falling; None as long as nothing is pushed."""
    if progress < WARMUP:
        return None
    return BETA[1] + (BETA[0] - BETA[1]) * (1 - progress) / (1 - WARMUP)


def improved(problem: Problem, h: torch.Tensor) -> torch.Tensor:
    """`h` after changes of single entries, in each output the best one first, until none lowers its error."""
    if problem.x.shape[-1] > MOST_COLUMNS:
        return h
    rows = problem.x.shape[1]
    gram = problem.x.mT @ problem.x / rows  # (parts, columns, columns)
    square = gram.diagonal(dim1=1, dim2=2)[:, None]
    slope = (problem.base + h) @ gram - problem.y.mT @ problem.x / rows  # half the gradient
    for _ in range(h[0, 0].numel()):
        change = 1 - 2 * h
        gain, column = (2 * change * slope + square).masked_fill(problem.free == 0, torch.inf).min(-1)
        part, output = (gain < -1e-6 * square.amax(-1)).nonzero(as_tuple=True)  # beyond rounding errors
        if not len(part):
            break
        column = column[part, output]
        turned = change[part, output, column]
        h = h.index_put((part, output, column), turned, accumulate=True)
        slope[part, output] += turned[:, None] * gram[part, column]
    return h
