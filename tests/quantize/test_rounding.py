"""Adaptive rounding against brute force, and what it promises of every layer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

import tersenet.quantize.uniform  # noqa: F401
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, Uniform, attach, decode, form_of, latent_of, match, weight_of
from tersenet.quantize.calibration import Calibration
from tersenet.quantize.ranges import grid
from tersenet.quantize.rounding import Adaptive, _beta, _rectified, improved, problem_of, relaxed, solve


def stage(**options):
    """With fewer steps than the default, which most tests can do without."""
    steps = {} if options.get("rounding") == "nearest" else {"adaptive": {"steps": 100}}
    return parse_stage({"method": "quantize.uniform", "rounding": "adaptive", **steps, **options})


def nearest(**options):
    return parse_stage({"method": "quantize.uniform", **options})


def correlated(rows, columns, rank, seed=0):
    """Inputs that are never negative and lie near a few directions."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
    return torch.relu(mixed + 0.3 * torch.randn(rows, columns, generator=generator))


def error(model, dense, x):
    with torch.no_grad():
        return float((model(x) - dense(x)).square().mean())


def twins(build):
    """Three models with the same weights."""
    models = []
    for _ in range(3):
        torch.manual_seed(3)
        models.append(build().eval())
    return models


def test_correlated_inputs_are_what_it_is_for(toy_context):
    x = correlated(600, 48, 12)
    dense, near, adapted = twins(lambda: nn.Sequential(nn.Linear(48, 16)))
    context = toy_context((x,), dense(x).detach())
    nearest(bits=3).apply(near, context)
    stage(bits=3, adaptive={"steps": 200}).apply(adapted, context)
    assert error(adapted, dense, x) < 0.5 * error(near, dense, x)
    assert error(adapted, dense, correlated(600, 48, 12, seed=0).flip(0)) < 0.5 * error(near, dense, x)


def test_it_comes_near_the_best_of_all_roundings(toy_context):
    """All 2^8 of each of 12 outputs. A third more error than theirs is allowed; nearest has three times as much."""
    x = correlated(200, 8, 3)
    dense, near, adapted = twins(lambda: nn.Sequential(nn.Linear(8, 12, bias=False)))
    context = toy_context((x,), dense(x).detach())
    nearest(bits=3, range="minmax").apply(near, context)
    stage(bits=3, range="minmax", adaptive={"steps": 500}).apply(adapted, context)
    form, weight = form_of(match(near)[0]), weight_of(match(dense)[0])
    step = form.step[:, None]
    floor = (weight / step).floor()
    best = torch.full((12,), torch.inf)
    for choice in itertools.product((0.0, 1.0), repeat=8):
        rounded = (floor + torch.tensor(choice)).clamp(-4, 3) * step
        best = torch.minimum(best, ((weight - rounded) @ x.T).square().mean(1))
    assert error(adapted, dense, x) * 12 <= 4 / 3 * float(best.sum())
    assert error(near, dense, x) * 12 > 3 * float(best.sum())


def test_an_error_in_the_mean_does_not_count_where_a_bias_takes_it(toy_context):
    """Of inputs that are large and vary little, all 2^8 roundings of each output by what is left once its mean is
    right; by the whole error, others would be chosen, which leave more than twice as much."""
    x = 5 + correlated(200, 8, 3)
    dense, _, adapted = twins(lambda: nn.Sequential(nn.Linear(8, 12)))
    stage(bits=3, range="minmax", bias_correction=True).apply(adapted, toy_context((x,), dense(x).detach()))
    weight, step = weight_of(match(dense)[0]), form_of(match(adapted)[0]).step[:, None]
    choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))[:, None]
    gaps = (weight - ((weight / step).floor() + choices).clamp(-4, 3) * step) @ x.T  # [choices, outputs, rows]
    whole, varying = gaps.square().mean(-1), gaps.var(-1, correction=0)
    best = float(varying.amin(0).sum())
    assert error(adapted, dense, x) * 12 <= 4 / 3 * best
    assert float(varying.gather(0, whole.argmin(0)[None]).sum()) > 2 * best


def test_every_number_is_one_of_the_two_around_the_weight_and_stored_bit_for_bit(toy_context):
    x = correlated(300, 20, 5)
    dense, adapted, _ = twins(lambda: nn.Sequential(nn.Linear(20, 8)))
    stage(bits=4, scheme="affine", range="minmax", step="float16").apply(adapted, toy_context((x,), dense(x).detach()))
    target = match(adapted)[0]
    form, step = form_of(target), form_of(target).step.half().float()[:, None]
    assert bool(((weight_of(target) - weight_of(match(dense)[0])).abs() < 1.01 * step).all())
    assert torch.equal(decode(form.encode(latent_of(target))), weight_of(target))
    exact = form.numbers(latent_of(target)) == (weight_of(match(dense)[0]) / step).round()
    assert 0 < int((~exact).sum()) < exact.numel()  # some were changed; those that were not keep their latents
    assert torch.equal(latent_of(target)[exact], weight_of(match(dense)[0])[exact])


LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (40, 6)),
    "positions": (lambda: nn.Linear(6, 5), (8, 7, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 5, 3, stride=2, padding=1), (16, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding="same", dilation=2), (8, 3, 7, 7)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (8, 4, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (8, 4, 6, 6)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (8, 3, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (6, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_every_kind_of_layer_errs_less(toy_context, kind, per):
    """On all positions, so that the error is the one that was minimised. Inputs have a mean, which adds errors up."""
    build, shape = LAYERS[kind]
    dense, near, adapted = twins(lambda: nn.Sequential(build()))
    torch.manual_seed(0)
    x = torch.rand(shape) + 1
    context = toy_context((x,), dense(x).detach())
    nearest(bits=3, per=per).apply(near, context)
    stage(bits=3, per=per, adaptive={"steps": 50, "samples": 10**6}).apply(adapted, context)
    assert error(adapted, dense, x) < 0.9 * error(near, dense, x)


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_read_times_the_weight_are_rows_given(kind):
    build, shape = LAYERS[kind]
    torch.manual_seed(0)
    model, x = nn.Sequential(build()), torch.randn(shape)
    calibration = Calibration(model, match(model), [(x,), (x + 1,)])
    (layer,), calls = calibration.layers, []
    calibration.watch([layer], calls.append)
    assert [call.number for call in calls] == [0, 1]
    for call in calls:
        at = torch.randperm(len(call.outputs))[:9]
        rows = call.rows_read(at) @ layer.matrix(weight_of(layer.target)).mT
        torch.testing.assert_close(rows, call.rows_given(at), atol=1e-5, rtol=1e-4)
        bias = 0 if model[0].bias is None else model[0].bias.detach()
        torch.testing.assert_close(rows.movedim(0, 1).flatten(1) + bias, call.outputs[at], atol=1e-5, rtol=1e-4)


def test_few_positions_of_a_convolution_do_nearly_as_well(toy_context):
    dense, few, many = twins(lambda: nn.Sequential(nn.Conv2d(6, 8, 3)))
    x = correlated(32 * 144, 6, 3).reshape(32, 12, 12, 6).permute(0, 3, 1, 2)
    context = toy_context((x,), dense(x).detach())
    stage(bits=3, batch_size=8, adaptive={"steps": 50, "samples": 400}).apply(few, context)
    stage(bits=3, batch_size=8, adaptive={"steps": 50, "samples": 10**6}).apply(many, context)
    assert error(few, dense, x) < 1.3 * error(many, dense, x)


def test_later_layers_make_up_for_earlier_ones(toy_context):
    """Targets are those of the dense model. In two stages the second knows only what the first has left."""
    x = correlated(500, 12, 4)
    dense, apart, together = twins(lambda: nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 8)))
    context = toy_context((x,), dense(x).detach())
    stage(bits=2, targets=["0"]).apply(apart, context)
    stage(bits=3, targets=["2"]).apply(apart, context)
    stage(bits={"0": 2, "2": 3}).apply(together, context)
    assert torch.equal(weight_of(match(together)[0]), weight_of(match(apart)[0]))
    assert error(together, dense, x) < 0.5 * error(apart, dense, x)


@pytest.fixture
def problem():
    """40 weights of each of 16 outputs, some of them pruned; inputs of 5 directions and noise."""
    torch.manual_seed(0)
    weight, mask = torch.randn(16, 40), torch.rand(16, 40) > 0.2
    form = Uniform(*grid(weight, 3, "symmetric", "mse"), 8, axis=0, support=mask)
    x = correlated(300, 40, 5)
    return problem_of(form, weight, lambda tensor: tensor[None], x[None], (x @ (weight * mask).mT)[None])


def test_the_problem_is_the_error_of_the_layer_in_steps(problem):
    torch.manual_seed(0)
    weight, mask = torch.randn(16, 40), torch.rand(16, 40) > 0.2
    step, low = grid(weight, 3, "symmetric", "mse")
    ratio = weight / step[:, None]
    x = correlated(300, 40, 5)
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


def test_pruned_weights_stay_zero(toy_context):
    x = correlated(200, 16, 4)
    dense, adapted, _ = twins(lambda: nn.Sequential(nn.Linear(16, 6)))
    mask = torch.rand(6, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    attach(match(adapted)[0], Masked(mask))
    stage(bits=3, scheme="affine").apply(adapted, toy_context((x,), dense(x).detach()))
    assert not bool(weight_of(match(adapted)[0])[~mask].any())


def test_a_layer_called_twice_and_one_never_called(toy_context):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.idle, self.words = nn.Linear(6, 6), nn.Linear(6, 6), nn.Embedding(5, 6)

        def forward(self, tokens):
            return self.twice(torch.relu(self.twice(self.words(tokens))))

    dense, near, adapted = twins(Model)
    tokens = torch.randint(5, (40,), generator=torch.Generator().manual_seed(0))
    context = toy_context((tokens,), dense(tokens).detach())
    nearest(bits=3).apply(near, context)
    stage(bits=3).apply(adapted, context)
    assert all(form_of(target) is not None for target in match(adapted))
    assert error(adapted, dense, tokens) < error(near, dense, tokens)
    assert sum("is rounded to nearest" in note for note in context.notes) == 2
    assert any("words.weight (Embedding)" in note for note in context.notes)


def test_where_nothing_is_gained_nearest_stays(toy_context):
    """Inputs that do not hang together: rounding each weight to the nearest is best."""
    dense, near, adapted = twins(lambda: nn.Sequential(nn.Linear(4, 3, bias=False)))
    x = torch.eye(4) * 2
    context = toy_context((x,), dense(x).detach())
    nearest(bits=3).apply(near, context)
    stage(bits=3).apply(adapted, context)
    assert torch.equal(weight_of(match(near)[0]), weight_of(match(adapted)[0]))
    assert any("0.weight is rounded to nearest: no other" in note for note in context.notes)


def test_the_model_is_left_in_its_mode_with_its_statistics(toy_context):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3))
    model.train()
    means = model[1].running_mean.clone()
    stage(bits=4, adaptive={"steps": 5}).apply(model, toy_context((torch.randn(8, 2, 4, 4),), torch.randn(8, 3)))
    assert torch.equal(model[1].running_mean, means) and all(module.training for module in model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_other_types(toy_context, dtype):
    dense, near, adapted = twins(lambda: nn.Sequential(nn.Linear(20, 8)).to(dtype))
    x = correlated(200, 20, 5).to(dtype)
    context = toy_context((x,), dense(x).detach())
    nearest(bits=4).apply(near, context)
    stage(bits=4).apply(adapted, context)
    target = match(adapted)[0]
    assert torch.equal(decode(form_of(target).encode(latent_of(target))), weight_of(target))
    assert error(adapted, dense, x) < 0.9 * error(near, dense, x)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rounding": "nearest", "adaptive": {"steps": 5}}, "'adaptive' belongs to rounding 'adaptive'"),
        ({"rounding": "nearest", "batches": 3}, "'batches' is for calibration"),
        ({"learn_step": True, "finetune": {"steps": 1}}, "leave out 'learn_step'"),
        ({"adaptive": {"stesp": 5}}, "did you mean 'steps'"),
        ({"adaptive": {"steps": 0}}, "adaptive.steps"),
        ({"rounding": "floor"}, "rounding"),
    ],
)
def test_mistakes_are_told(options, sentence):
    with pytest.raises(RecipeError, match=sentence):
        stage(**options)


def test_no_data_is_told(toy_context):
    context = toy_context((torch.randn(0, 4),), torch.randn(0, 3))
    with pytest.raises(DataError, match=r"quantize.uniform: calibrates on batches of the train data, and there are no"):
        stage(bits=4).apply(nn.Sequential(nn.Linear(4, 3)), context)
