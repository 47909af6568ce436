"""Binary weights: signs and scales against brute force, gradients against the papers' formulas, chance against its
probabilities, codes against their forward."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.forms import Binary, decode


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(form, latent, outer):
    latent = latent.clone().requires_grad_()
    form(latent).backward(outer)
    return latent.grad


@st.composite
def samples(draw):
    """A form and a latent."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=5))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    latent = torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=st.floats(-9, 9, width=16)))).to(dtype)
    mask = torch.from_numpy(draw(hnp.arrays(np.bool_, shape))) if draw(st.booleans()) else None
    scaled = draw(st.booleans())
    axis = draw(st.sampled_from([None, *range(len(shape))])) if scaled else None
    return Binary(latent.shape, support=mask, scaled=scaled, axis=axis, bound=draw(st.sampled_from([1.0, 0.2]))), latent


@settings(deadline=None)
@given(samples())
def test_decodes_to_its_forward_in_as_many_values_as_it_says(sample):
    form, latent = sample
    weight, code = form(latent), form.encode(latent)
    assert bits(decode(code)) == bits(weight) and weight.dtype == latent.dtype
    assert weight.unique().numel() <= form.distinct
    if form.support is not None:
        pruned = weight[~form.support]
        assert not pruned.any() and not torch.signbit(pruned).any(), "a file has one zero, which is +0"
    assert code.streams["sign"].alphabet == (2 if form.support is None else 3)


@settings(deadline=None)
@given(samples())
def test_what_it_can_hold_it_holds(sample):
    form, latent = sample
    weight = form(latent)
    exact = {} if weight.dtype == torch.float64 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(form(form.right_inverse(weight)), weight, **exact)


def test_signs_without_a_scale_and_zero_counts_as_positive():
    weight = Binary(torch.Size((1, 4)))(torch.tensor([[-0.3, 0.0, 0.2, -2.0]]))
    assert weight.tolist() == [[-1, 1, 1, -1]]


def test_scale_and_signs_are_the_best_there_are():
    """XNOR-Net, eq. 2: of all ±α, the least squares; here over all signs and the least-squares α of each."""
    weight = noise(8, dtype=torch.float64)
    best = min(
        float((weight - (weight @ b) / 8 * b).square().sum())
        for signs in product((-1.0, 1.0), repeat=8)
        for b in [torch.tensor(signs, dtype=torch.float64)]
    )
    form = Binary(torch.Size((2, 4)), scaled=True)
    got = form(form.right_inverse(weight.view(2, 4))).view(-1)
    assert float((weight - got).square().sum()) == pytest.approx(best, rel=1e-12)


def test_a_scale_for_each_filter_and_pruned_entries_in_no_mean():
    latent = torch.tensor([[1.0, -3.0, 0.0], [-0.5, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    form = Binary(latent.shape, support=mask, scaled=True, axis=0)
    assert form(latent).tolist() == [[2, -2, 0], [-0.5, 0, 0]] and form.distinct == 5
    columns = Binary(latent.shape, scaled=True, axis=1)
    assert columns(latent)[:, 1].tolist() == [-1.5, 1.5]


def test_gradient_of_signs_is_straight_through_over_the_bound():
    latent, outer = noise(5, 6), noise(5, 6, seed=1)
    torch.testing.assert_close(gradient(Binary(latent.shape), latent, outer), outer)
    torch.testing.assert_close(gradient(Binary(latent.shape, bound=0.25), latent, outer), 4 * outer)
    mask = noise(5, 6, seed=2) > 0
    masked = gradient(Binary(latent.shape, support=mask), latent, outer)
    assert torch.equal(masked, torch.where(mask, outer, 0))


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_scaled_signs_is_the_product_rule(axis, masked):
    """α₀·v + mean|v|·s₀ has it by autograd, with the sign's own derivative set to 1; and α alone by differences."""
    latent, outer = noise(4, 6, dtype=torch.float64), noise(4, 6, seed=1, dtype=torch.float64)
    mask = noise(4, 6, seed=2) > -0.5 if masked else torch.ones(4, 6, dtype=torch.bool)
    form = Binary(latent.shape, support=mask if masked else None, scaled=True, axis=axis)
    kept = latent * mask
    over = () if axis is None else (1 - axis,)
    alpha = kept.abs().sum(over, keepdim=True) / (mask.sum(over, keepdim=True) if over else mask.sum())
    v = kept.clone().requires_grad_()
    moving = v.abs().sum(over, keepdim=True) / (mask.sum(over, keepdim=True) if over else mask.sum())
    (((alpha * v) + moving * kept.sign()) * mask * outer).sum().backward()
    got = gradient(form, kept, outer)
    torch.testing.assert_close(got, torch.where(mask, v.grad, 0))
    place, h = (2, 3), 1e-6
    step = torch.zeros_like(latent)
    step[place] = h
    difference = float(((form(kept + step) - form(kept - step)) * outer).sum()) / (2 * h)
    through = float((alpha * outer).expand_as(latent)[place]) if mask[place] else 0.0
    assert float(got[place]) - through == pytest.approx(difference, abs=1e-6)


def test_drawn_signs_have_the_probability_of_the_hard_sigmoid():
    """BinaryConnect, eq. 2 and 3: E[sign] = clip(latent / bound, −1, 1). 40,000 draws of each: six deviations."""
    levels = torch.tensor([-3.0, -1.0, -0.5, -0.1, 0.0, 0.3, 0.9, 1.0, 2.0])
    bound = 0.5
    form = Binary(torch.Size((9, 40_000)), bound=bound)
    form.draw.fill_(11)
    weight = form((levels * bound).repeat(40_000, 1).T.contiguous())
    assert set(weight.unique().tolist()) == {-1.0, 1.0}
    expected = levels.clamp(-1, 1)
    deviation = ((1 - expected**2) / 40_000).sqrt()
    assert bool(((weight.mean(1) - expected).abs() <= 6 * deviation).all())
    assert (weight[[0, 1]] == -1).all() and (weight[[7, 8]] == 1).all()


def test_draws_depend_on_the_buffer_alone_and_happen_in_training_only():
    latent, form = 0.1 * noise(30, 30), Binary(torch.Size((30, 30)))
    form.draw.fill_(5)
    state = torch.get_rng_state()
    first = form(latent)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(form(latent), first)
    form.draw.fill_(6)
    assert not torch.equal(form(latent), first)
    form.draw.fill_(5)
    assert torch.equal(form(latent), first)
    assert torch.equal(form.eval()(latent), torch.where(latent >= 0, 1.0, -1.0))
    assert bits(decode(form.train().encode(latent))) == bits(form.eval()(latent))


def test_drawn_signs_get_the_same_gradient_and_keep_zeros():
    mask, latent, outer = noise(6, 6) > 0, 0.1 * noise(6, 6, seed=1), noise(6, 6, seed=2)
    form = Binary(latent.shape, support=mask, bound=0.5)
    form.draw.fill_(1)
    assert torch.equal(form(latent) != 0, mask)
    assert torch.equal(gradient(form, latent, outer), torch.where(mask, 2 * outer, 0))


def test_real_at_test_time():
    latent = torch.tensor([[0.1, -0.7], [0.2, 0.0]])
    mask = torch.tensor([[True, True], [False, True]])
    form = Binary(latent.shape, support=mask, bound=0.5, real=True)
    assert form(latent).tolist() == [[1, -1], [0, 1]]
    torch.testing.assert_close(form.eval()(latent), torch.tensor([[0.2, -1.0], [0.0, 0.0]]))


def test_latents_start_at_the_bound_and_are_clipped_to_it():
    weight, form = noise(5, 5), Binary(torch.Size((5, 5)), bound=0.3)
    latent = form.right_inverse(weight)
    torch.testing.assert_close(latent, 0.3 * weight / weight.abs().max())
    latent = 5 * latent
    form.clip(latent)
    assert latent.min() >= -0.3 and latent.max() <= 0.3 and torch.equal(latent.sign(), weight.sign())


def test_nan_and_infinity_are_refused():
    with pytest.raises(ModelError, match="NaN"):
        Binary(torch.Size((1, 2))).encode(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ModelError, match="infinite"):
        Binary(torch.Size((1, 2)), scaled=True).encode(torch.tensor([[1.0, float("inf")]]))
    with pytest.raises(ValueError, match="axis"):
        Binary(torch.Size((1, 2)), axis=0)


def symbols(values, alphabet, zero=False):
    return {"sign": Symbols(np.array(values, np.int32), alphabet, zero)}


SCALE = {"scale": np.array([2, 3], np.float32)}
GOOD = Code("binary", (2, 2), symbols([0, 1, 1, 0], 2), SCALE, {"axis": 0})


def test_the_sample_itself_decodes():
    assert decode(GOOD).tolist() == [[-2, 2], [3, -3]]
    assert decode(dataclasses.replace(GOOD, options={"axis": 1})).tolist() == [[-2, 3], [2, -3]]
    assert decode(dataclasses.replace(GOOD, tables={}, options={})).tolist() == [[-1, 1], [1, -1]]
    masked = dataclasses.replace(GOOD, streams=symbols([0, 1, 2, 0], 3, True))
    assert decode(masked).tolist() == [[0, -2], [3, 0]]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (4, 2)},
        {"shape": (-2, -2)},
        {"shape": ()},
        {"shape": (4,)},
        {"options": {"axis": 2}},
        {"options": {"axis": -2}},
        {"options": {"axis": -1}},
        {"options": {}},
        {"streams": {}},
        {"streams": symbols([0, 1, 2, 0], 3)},
        {"streams": symbols([0, 1, 3, 0], 4, True)},
        {"streams": symbols([0, 1, 1], 2)},
        {"tables": {"scale": np.ones(3, np.float32)}},
        {"tables": {"positive": np.ones(2, np.float32)}},
        {"tables": {"positive": np.ones(2, np.float32), "negative": np.ones(1, np.float32)}},
        {"tables": {"scale": np.ones(2, np.int8)}},
        {"dtype": "bool"},
        {"dtype": "int64"},
        {"dtype": "float8_e5m2"},
        {"dtype": "complex64"},
        {"dtype": "none", "tables": {}, "options": {}},
    ],
    ids=str,
)
def test_contradictory_codes_are_refused(change):
    with pytest.raises(ArtifactError):
        decode(dataclasses.replace(GOOD, **change))
