"""Adaptive rounding against brute force, and what it promises of every layer."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import tersenet.quantize.uniform  # noqa: F401
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, attach, decode, form_of, latent_of, match, weight_of
from tersenet.quantize.calibration import Calibration


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
