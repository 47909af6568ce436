"""What adaptive rounding minimises, and its search: formulas of the paper, and each step against the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tersenet.forms import Uniform
from tersenet.quantize.ranges import grid
from tersenet.quantize.rounding import Adaptive, _beta, _rectified, improved, problem_of, relaxed, solve


def layer():
    """40 weights of each of 16 outputs, which of them are not pruned, and inputs near 5 directions."""
    torch.manual_seed(0)
    weight, mask = torch.randn(16, 40), torch.rand(16, 40) > 0.2
    return weight, mask, torch.relu(torch.randn(300, 5) @ torch.randn(5, 40) + 0.3 * torch.randn(300, 40))


@pytest.fixture
def problem():
    weight, mask, x = layer()
    form = Uniform(*grid(weight, 3, "symmetric", "mse"), 8, axis=0, support=mask)
    return problem_of(form, weight, lambda tensor: tensor[None], x[None], (x @ (weight * mask).mT)[None])


def test_the_problem_is_the_error_of_the_layer_in_steps(problem):
    weight, mask, x = layer()
    step, low = grid(weight, 3, "symmetric", "mse")
    ratio = weight / step[:, None]
    gap = x @ (Uniform(step, low, 8, axis=0, support=mask)(weight) - weight * mask).mT / step
    torch.testing.assert_close(problem.errors(problem.nearest)[0], gap.square().mean(0) / x.square().mean())
    assert torch.equal(problem.free[0] > 0, mask & (ratio > -4) & (ratio < 3))
    inside = problem.free > 0
    torch.testing.assert_close((problem.base + problem.start)[inside], ratio[None][inside])


def test_the_rectified_sigmoid_reaches_its_ends():
    """Eq. 23 with ζ = 1.1 and γ = −0.1: sigmoids above 11/12 and below 1/12 are 1 and 0."""
    v = torch.logit(torch.tensor([0.05, 1 / 12, 0.25, 0.5, 0.75, 11 / 12, 0.95]))
    torch.testing.assert_close(_rectified(v), torch.tensor([0, 0, 0.2, 0.5, 0.8, 1, 1]), atol=1e-6, rtol=0)


def test_the_exponent_falls_from_20_to_2_after_a_fifth_of_the_steps():
    """Eq. 24: large at first, so that only what is near 0 or 1 is pushed there; nothing is at the very beginning."""
    assert [_beta(progress) for progress in (0.0, 0.19)] == [None, None]
    assert [_beta(progress) for progress in (0.2, 0.6, 1.0)] == pytest.approx([20.0, 11.0, 2.0])


def test_descent_starts_from_the_weights_themselves(problem):
    """So steps that lead nowhere give rounding to nearest."""
    found = relaxed(problem, Adaptive(steps=1, lr=1e-9), torch.Generator().manual_seed(0))
    assert torch.equal(found, problem.nearest) and 0.2 < float(found.mean()) < 0.8


def test_the_penalty_makes_real_numbers_roundings(problem):
    """Without it, descent leaves them between 0 and 1, where the error is nothing, and cutting them is no gain."""
    errors = [
        float(problem.errors(relaxed(problem, Adaptive(penalty=penalty), torch.Generator().manual_seed(0))).sum())
        for penalty in (1e-9, 1.0)
    ]
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.5 * float(problem.errors(problem.nearest).sum())


def test_descent_and_single_changes_are_better_than_either(problem):
    found = relaxed(problem, Adaptive(), torch.Generator().manual_seed(0))
    both = solve(problem, Adaptive(), torch.Generator().manual_seed(0))
    totals = [float(problem.errors(h).sum()) for h in (both, found, improved(problem, problem.nearest))]
    assert totals[0] < 0.98 * totals[1] and totals[0] < 0.98 * totals[2]


def test_no_single_change_makes_it_better(problem):
    h = improved(problem, problem.nearest)
    least = problem.errors(h)
    for column in range(40):
        other = h.clone()
        other[..., column] = torch.where(problem.free[..., column] > 0, 1 - h[..., column], 0)
        assert bool((problem.errors(other) >= least * (1 - 1e-4)).all())


def test_no_output_is_worse_than_nearest(problem):
    """Whatever descent does: here it begins at the opposite of nearest, which is exact, and gets stuck on its way."""
    y = problem.x @ (problem.base + problem.nearest).mT
    trap = replace(problem, y=y, start=1 - problem.nearest)
    options = Adaptive(steps=1)
    stuck = improved(trap, relaxed(trap, options, torch.Generator().manual_seed(0)))
    assert bool((trap.errors(stuck) > 0.01).any())
    assert torch.equal(solve(trap, options, torch.Generator().manual_seed(0)), trap.nearest)
