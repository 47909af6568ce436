"""Uniform grids against torch's own fake quantization, numpy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tersenet.quantize.uniform  # noqa: F401
from tersenet.core.errors import ArtifactError, ModelError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, Uniform, attach, decode, form_of, latent_of, match, weight_of
from tersenet.quantize.ranges import FRACTIONS, grid


def stage(**options):
    return parse_stage({"method": "quantize.uniform", **options})


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(32, 2, 4, 4),), torch.randn(32, 4))


def clear(latent, step, low, levels, axis):
    """Entries but those less than a step beyond an end, where torch lets gradients pass and the paper does not."""
    shape = [-1 if place == axis else 1 for place in range(latent.ndim)]
    ratio, least = latent.detach() / step.reshape(shape), low.reshape(shape)
    most = least + levels - 1
    return ~(((ratio > most) & (ratio < most + 1)) | ((ratio < least) & (ratio > least - 1)))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_forward_and_straight_through_are_those_of_torch(axis):
    torch.manual_seed(0)
    latent, slope = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    size = 1 if axis is None else latent.shape[axis]
    step, low = torch.rand(size) * 0.2 + 0.05, -(torch.arange(size) % 7) - 1
    ours = Uniform(step, low, 8, axis=axis)(latent)
    if axis is None:
        theirs = torch.fake_quantize_per_tensor_affine(latent, float(step), int(-low), 0, 7)
    else:
        theirs = torch.fake_quantize_per_channel_affine(latent, step, (-low).to(torch.int32), axis, 0, 7)
    torch.testing.assert_close(ours, theirs)
    slope = slope * clear(latent, step, low, 8, axis)
    (found,) = torch.autograd.grad((ours * slope).sum(), latent)
    (expected,) = torch.autograd.grad((theirs * slope).sum(), latent)
    assert torch.equal(found, expected) and 0 < int((found == 0).sum()) < 30


@pytest.mark.parametrize("axis", [None, 0])
def test_the_gradient_of_learned_steps_is_that_of_torch(axis):
    """LSQ, eq. 3, with the scale 1/√(N·Q_P) of §2.2."""
    torch.manual_seed(0)
    latent, slope = torch.randn(6, 5), torch.randn(6, 5)
    size, entries = (1, 30) if axis is None else (6, 5)
    step, low = torch.rand(size) * 0.2 + 0.1, torch.full((size,), -4)
    slope = slope * clear(latent, step, low, 8, axis)
    form = Uniform(step, low, 8, axis=axis, learned=True)
    (form(latent) * slope).sum().backward()
    theirs, factor = step.clone().requires_grad_(), 1 / (entries * 3) ** 0.5
    zero = torch.full((size,), 0.0)
    if axis is None:
        out = torch._fake_quantize_learnable_per_tensor_affine(latent, theirs, zero, -4, 3, factor)
    else:
        out = torch._fake_quantize_learnable_per_channel_affine(latent, theirs, zero, axis, -4, 3, factor)
    (out * slope).sum().backward()
    torch.testing.assert_close(form.step.grad, theirs.grad)


def test_beyond_the_range_the_steps_gradient_is_the_finite_difference():
    latent = torch.tensor([-9.0, 7.0, 8.5])
    form = Uniform(torch.tensor([0.3]), torch.tensor([-4]), 8, learned=True)
    form(latent).sum().backward()
    eps = 1e-3
    up, down = (Uniform(torch.tensor([0.3 + e]), torch.tensor([-4]), 8)(latent).sum() for e in (eps, -eps))
    assert float(form.step.grad) == pytest.approx(float((up - down) / (2 * eps)) / (3 * 3) ** 0.5, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 10), st.integers(0, 100), st.sampled_from(["float32", "float16"]))
def test_every_entry_goes_to_the_nearest_number_of_steps(levels, seed, precision):
    generator = torch.Generator().manual_seed(seed)
    latent, step = torch.randn(4, 3, generator=generator), torch.rand(4, generator=generator) + 0.05
    low = -torch.randint(0, levels, (4,), generator=generator)
    form = Uniform(step, low, levels, axis=0, precision=precision)
    weight = form(latent)
    stored = step.half().float() if precision == "float16" else step
    for row in range(4):
        allowed = stored[row] * torch.arange(int(low[row]), int(low[row]) + levels)
        gaps = (latent[row][:, None] - allowed).abs().min(1).values
        torch.testing.assert_close((latent[row] - weight[row]).abs(), gaps, atol=1e-5, rtol=1e-5)
    assert torch.equal(decode(form.encode(latent)), weight)
    assert int(form.encode(latent).streams["index"].values.max()) < levels


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("how", ["minmax", "percentile", "mse", "entropy"])
def test_grids_hold_zero_and_have_2_to_the_b_numbers(scheme, how):
    entries = torch.randn(3, 400, generator=torch.Generator().manual_seed(0)) + torch.tensor([[0.0], [2.0], [-9.0]])
    step, low = grid(entries, 4, scheme, how)
    assert bool((step > 0).all()) and bool((low <= 0).all()) and bool((low > -16).all())
    if scheme == "symmetric":
        assert low.tolist() == [-8] * 3
    elif how == "minmax":
        ends = torch.stack([step * low, step * (low + 15)])
        spans = torch.stack([entries.amin(1).clamp(max=0), entries.amax(1).clamp(min=0)])
        assert bool(((ends - spans).abs() <= 0.51 * step).all())


def test_minmax_by_hand():
    step, low = grid(torch.tensor([[-1.0, 0.5], [0.25, 3.5]]), 3, "symmetric", "minmax")
    assert step.tolist() == pytest.approx([0.25, 3.5 / 3]) and low.tolist() == [-4, -4]
    step, low = grid(torch.tensor([[-1.0, 6.0], [2.0, 7.0]]), 3, "affine", "minmax")
    assert step.tolist() == [1.0, 1.0] and low.tolist() == [-1, 0]


def test_percentiles_are_those_of_numpy():
    entries = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    step, _ = grid(entries, 8, "symmetric", "percentile", 99)
    ordered = np.sort(entries.numpy(), axis=1)
    expected = np.maximum(ordered[:, 989] / 127, -ordered[:, 10] / 128)
    np.testing.assert_allclose(step.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_mse_is_the_best_of_all_fractions(scheme):
    entries = torch.randn(3, 200, generator=torch.Generator().manual_seed(0)) ** 3

    def error(step, low):
        return (Uniform(step, low, 8, axis=0)(entries) - entries).square().sum(1)

    all_errors = []
    for count in range(1, FRACTIONS + 1):
        ends = entries.amin(1).clamp(max=0) * count / FRACTIONS, entries.amax(1).clamp(min=0) * count / FRACTIONS
        pair = torch.stack(ends, 1)
        all_errors.append(error(*grid(pair, 3, scheme, "minmax")))
    torch.testing.assert_close(error(*grid(entries, 3, scheme, "mse")), torch.stack(all_errors).amin(0))
    assert bool((error(*grid(entries, 3, scheme, "mse")) < 0.97 * all_errors[-1]).all())


def test_entropy_cuts_an_outlier_off_and_keeps_a_box():
    heavy = torch.cat([torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)), torch.tensor([[40.0]])], 1)
    full, _ = grid(heavy, 4, "symmetric", "minmax")
    cut, _ = grid(heavy, 4, "symmetric", "entropy")
    assert float(cut) < 0.5 * float(full)
    box = torch.linspace(-1, 1, 5001)[None]
    assert float(grid(box, 4, "symmetric", "entropy")[0]) > 0.9 * float(grid(box, 4, "symmetric", "minmax")[0])


def test_the_first_step_of_lsq():
    """2·mean |w| / √Q_P (§2.1)."""
    step, low = grid(torch.tensor([[1.0, -2.0, 3.0]]), 3, "symmetric", "lsq")
    assert float(step) == pytest.approx(2 * 2 / 3**0.5) and low.tolist() == [-4]


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4},
        {"bits": 1, "scheme": "affine", "per": "tensor"},
        {"bits": 2, "range": "lsq", "learn_step": True},
        {"bits": 8, "scheme": "affine", "step": "float16"},
        {"bits": 16, "range": "minmax"},
    ],
)
def test_what_is_stored_is_what_is_computed(context, options):
    model = net()
    stage(**options, finetune={"steps": 4, "lr": 0.01}).apply(model, context)
    for target in match(model):
        form = form_of(target)
        found = decode(form.encode(latent_of(target)))
        assert torch.equal(found, weight_of(target)) and found.unique().numel() <= form.distinct
        rows = found.flatten(1) if form.axis == 0 else found.reshape(1, -1)
        assert all(row.unique().numel() <= 2 ** options["bits"] for row in rows)


def test_learned_steps_learn_and_fixed_ones_do_not(context):
    for learn in (False, True):
        model = net()
        stage(bits=3).apply(model, context)
        before = form_of(match(model)[0]).step.clone()
        model = net()
        stage(bits=3, learn_step=learn, finetune={"steps": 5, "lr": 0.05}).apply(model, context)
        assert torch.equal(form_of(match(model)[0]).step, before) != learn


def test_training_through_the_rounding_helps(context):
    losses = []
    for finetune in (None, {"steps": 100, "lr": 0.01}):
        model = net()
        stage(bits=2, finetune=finetune).apply(model, context)
        losses.append(float(context.loss(model)))
    assert losses[1] < 0.8 * losses[0]


def test_zeros_stay_zero_and_are_coded_as_such(context):
    model = net()
    target = match(model)[1]
    mask = torch.rand(target.shape) > 0.5
    attach(target, Masked(mask))
    stage(bits=4, scheme="affine", finetune={"steps": 5, "lr": 0.1}).apply(model, context)
    target = match(model)[1]
    assert not bool(weight_of(target)[~mask].any())
    symbols = form_of(target).encode(latent_of(target)).streams["index"]
    assert symbols.zero and bool((torch.from_numpy(symbols.values)[~mask.reshape(-1)] == 0).all())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bits": 0}, "from 1 to 16"),
        ({"bits": 33}, "from 1 to 16"),
        ({"bits": 1}, "1 bit has no symmetric grid"),
        ({"bits": {"0": 1}}, "1 bit has no symmetric grid"),
        ({"percentile": 99}, "belongs to range 'percentile'"),
        ({"range": "lsq", "scheme": "affine"}, "symmetric"),
        ({"learn_step": True}, "needs 'finetune'"),
        ({"range": "entropy", "bits": 10}, "too coarse above 8 bits"),
        ({"targets": ["3.bias"]}, "3.bias is a vector"),
    ],
)
def test_mistakes_are_told_before_training(options, sentence):
    with pytest.raises(RecipeError, match=sentence):
        stage(**options).check(net())


def test_weights_that_cannot_be_rounded_are_told(context):
    model = net()
    with torch.no_grad():
        model[3].weight[0, 0] = torch.inf
    with pytest.raises(ModelError, match=r"3.weight holds NaN or infinity"):
        stage(bits=4).apply(model, context)


def test_constant_weights_keep_their_value(context):
    model = net()
    with torch.no_grad():
        model[3].weight.fill_(0.75)
        model[5].weight.zero_()
    stage(bits=4).apply(model, context)
    torch.testing.assert_close(weight_of(match(model)[1]), torch.full((8, 24), 0.75))
    assert not bool(weight_of(match(model)[2]).any())


def test_files_that_contradict_themselves():
    code = Uniform(torch.rand(4) + 0.1, torch.tensor([-1, -2, -3, 0]), 8, axis=0).encode(torch.randn(4, 3))
    assert code.tables["low"].tolist() == [-1, -2, -3, 0]
    for change in ({"axis": 1}, {"axis": 7}, {"axis": -1}, {"axis": -9}):
        bad = type(code)(code.form, code.shape, code.streams, code.tables, {**code.options, **change}, code.dtype)
        with pytest.raises(ArtifactError):
            decode(bad)
    del code.tables["low"]
    with pytest.raises(ArtifactError, match="needs 4 lows"):
        decode(code)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_weights_of_other_types(toy_context, dtype, bits, scheme):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 8)).to(dtype)
    context = toy_context((torch.randn(4, 50, dtype=dtype),), torch.randn(4, 8, dtype=dtype))
    training = None if dtype == torch.float16 else {"steps": 2, "lr": 0.01}  # Adam's ε is zero there
    stage(bits=bits, scheme=scheme, finetune=training).apply(model, context)
    target = match(model)[0]
    found = decode(form_of(target).encode(latent_of(target)))
    assert found.dtype == dtype and torch.equal(found, weight_of(target))
    assert all(row.unique().numel() <= 2**bits for row in found)


def test_types_too_short_for_the_bits_are_told(context):
    model = net().to(torch.bfloat16)
    with pytest.raises(RecipeError, match="bfloat16, which holds 8 bits, fewer than 10"):
        stage(bits=10).apply(model, context)


@pytest.mark.parametrize("size", [1e-8, 1e9])
def test_steps_that_float16_cannot_hold_are_told(context, size):
    model = net()
    with torch.no_grad():
        model[3].weight.mul_(size)
    with pytest.raises(ModelError, match=r"3.weight: steps from .* do not fit float16; use step: float32"):
        stage(bits=8, step="float16").apply(model, context)


def test_a_step_that_training_has_driven_out_of_float16_is_stored_as_computed():
    for step in (1e-12, 1e9, -0.3):
        form, latent = Uniform(torch.tensor([step]), torch.tensor([-4]), 8, precision="float16"), torch.randn(5)
        assert bool(form(latent).isfinite().all()) and torch.equal(decode(form.encode(latent)), form(latent))
