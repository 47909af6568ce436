"""Ternary weights: thresholds and values against least squares and plain loops, gradients against the papers'
formulas and against finite differences, codes against their forward."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.core.errors import ModelError
from tersenet.forms import Ternary, decode


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def samples(draw):
    """A form and a latent."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=5))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    elements = st.floats(-9, 9, width=16)
    latent, start = (torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=elements))).to(dtype) for _ in "12")
    mask = torch.from_numpy(draw(hnp.arrays(np.bool_, shape))) if draw(st.booleans()) else None
    axis = draw(st.sampled_from([None, *range(len(shape))]))
    threshold, of = draw(st.sampled_from([0.05, 0.5, 0.95])), draw(st.sampled_from(["mean", "largest", "share"]))
    form = Ternary(latent.shape, threshold, of, axis=axis, support=mask, start=draw(st.sampled_from([None, start])))
    return form, form.right_inverse(latent)


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
    assert code.streams["sign"].alphabet == 3 and code.streams["sign"].zero


@settings(deadline=None)
@given(samples())
def test_what_it_can_hold_it_holds(sample):
    form, latent = sample
    weight = form(latent)
    exact = {} if weight.dtype == torch.float64 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(form(form.right_inverse(weight)), weight, **exact)


def test_ternary_weight_network_by_hand():
    """TWN, eq. 5 and 6: mean |w| = 0.5, Δ = 0.35, α = mean of 0.4, 0.6, 1, 0.8 and 0.71 = 0.702."""
    weight = torch.tensor([[0.1, -0.4, 0.6, -0.05], [1.0, 0.34, -0.8, 0.71]])
    torch.testing.assert_close(Ternary(weight.shape)(weight), 0.702 * torch.tensor([[0.0, -1, 1, 0], [1, 0, -1, 1]]))


def test_scale_is_the_least_squares_one_and_the_threshold_nearly_the_best():
    """TWN, §2.2: α* = argmin ‖W − α·T‖ for the threshold given; over normal weights 0.7·E|w| is close to optimal."""
    weight = noise(200, 200, dtype=torch.float64)
    got = Ternary(weight.shape)(weight)
    signs = got.sign().reshape(-1, 1).numpy()
    alpha = np.linalg.lstsq(signs, weight.reshape(-1).numpy(), rcond=None)[0]
    assert float(got.max()) == pytest.approx(float(alpha[0]), rel=1e-12)
    sizes = weight.abs().reshape(-1).sort(descending=True).values
    kept = sizes.cumsum(0) ** 2 / torch.arange(1, len(sizes) + 1)  # what n kept entries take from the squared error
    best = float(sizes.square().sum() - kept.max())
    assert best <= float((weight - got).square().sum()) <= 1.01 * best


def test_each_filter_by_itself_is_a_layer_of_one_filter():
    weight = noise(4, 3, 2, 2)
    for options in ({}, {"threshold": 0.05, "of": "largest", "start": weight}, {"threshold": 0.5, "of": "share"}):
        whole = Ternary(weight.shape, axis=0, **options)(weight)
        for place in range(4):
            part = weight[place : place + 1]
            own = {**options, "start": part} if "start" in options else options
            assert torch.equal(Ternary(part.shape, **own)(part), whole[place : place + 1])


def test_trained_values_start_at_the_means_of_what_they_stand_for():
    """TTQ, eq. 9: Δ = 0.05 · max |w|."""
    weight = torch.tensor([[1.0, 0.06, 0.0499, -0.0499], [-0.2, -0.4, 0.5, 0.01]])
    form = Ternary(weight.shape, 0.05, "largest", start=weight)
    positive, negative = (1.0 + 0.06 + 0.5) / 3, -0.3
    expected = [[positive, positive, 0, 0], [negative, negative, positive, 0]]
    torch.testing.assert_close(form(weight), torch.tensor(expected))
    one_sided = Ternary(torch.Size((1, 2)), 0.05, "largest", start=torch.tensor([[1.0, 3.0]]))
    assert (one_sided.negative.item(), one_sided.positive.item()) == (-2, 2)


@pytest.mark.parametrize("share", [0.1, 0.333, 0.9, 0.999])
def test_a_share_of_zeros_is_met_exactly(share):
    weight = noise(20, 30)
    form = Ternary(weight.shape, share, "share")
    assert int((form(weight) == 0).sum()) == min(round(share * 600), 599)
    filters = Ternary(weight.shape, share, "share", axis=0)(weight)
    assert ((filters == 0).sum(1) == min(round(share * 30), 29)).all()
    pruned = torch.where(weight > 0, weight, 0)
    already = Ternary(weight.shape, 0.3, "share", support=weight > 0)
    assert torch.equal(already(pruned) == 0, weight <= 0), "pruned entries count"


def test_equal_entries_do_not_all_become_zero():
    weight = torch.tensor([[0.5, -0.5, 0.5, 0.5]])
    assert torch.equal(Ternary(weight.shape, 0.5, "share")(weight), weight)


def test_means_and_thresholds_are_those_of_what_is_not_pruned():
    weight = noise(6, 8)
    mask = noise(6, 8, seed=1) > 0
    kept = weight[mask].reshape(1, -1)
    latent = torch.where(mask, weight, 0)
    assert torch.equal(Ternary(weight.shape, support=mask)(latent)[mask], Ternary(kept.shape)(kept)[0])


def trained(latent, outer, mask=None, axis=None):
    form = Ternary(latent.shape, 0.3, "largest", axis=axis, support=mask, start=latent)
    form.negative.data.mul_(0.7)
    latent = latent.clone().requires_grad_()
    form(latent).backward(outer)
    return form, latent.grad


@pytest.mark.parametrize("axis", [None, 0])
def test_the_three_gradients_of_trained_ternary_quantization(axis):
    """TTQ, eq. 7 and 8, entry by entry: W_p and W_n sum their members' gradients (−W_n is what is held, so the sign of
    eq. 6 is in it), latents get W_p·g, g or W_n·g."""
    latent, outer = noise(5, 7, dtype=torch.float64), noise(5, 7, seed=1, dtype=torch.float64)
    form, got = trained(latent, outer, axis=axis)
    for row in range(5) if axis == 0 else [slice(None)]:
        index = row if axis == 0 else 0
        part, g = latent[row].reshape(-1), outer[row].reshape(-1)
        delta = 0.3 * max(abs(float(w)) for w in part)
        w_p, w_n = form.positive[index].item(), -form.negative[index].item()
        sums, expected = [0.0, 0.0], []
        for w, d in zip(part.tolist(), g.tolist(), strict=True):
            sums[0] += d if w > delta else 0.0
            sums[1] += d if w < -delta else 0.0
            expected.append(w_p * d if w > delta else w_n * d if w < -delta else d)
        assert float(form.positive.grad[index]) == pytest.approx(sums[0], rel=1e-12)
        assert float(form.negative.grad[index]) == pytest.approx(sums[1], rel=1e-12)
        torch.testing.assert_close(got[row].reshape(-1), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", ["negative", "positive"])
def test_gradients_of_the_values_by_finite_differences(name):
    latent, outer = noise(4, 5, dtype=torch.float64), noise(4, 5, seed=1, dtype=torch.float64)
    form, _ = trained(latent, outer, axis=1)
    values, h = getattr(form, name).detach(), 1e-6
    for place in range(5):
        outcomes = []
        for step in (h, -2 * h):
            values[place] += step
            outcomes.append((form(latent).square() * outer).sum().item())
        values[place] += h
        expected = (outcomes[0] - outcomes[1]) / (2 * h)
        form.zero_grad()
        (form(latent).square() * outer).sum().backward()
        assert float(getattr(form, name).grad[place]) == pytest.approx(expected, abs=1e-7)


def test_gradient_of_fixed_values_is_straight_through():
    latent, outer = noise(5, 6).requires_grad_(), noise(5, 6, seed=1)
    Ternary(latent.shape)(latent).backward(outer)
    assert torch.equal(latent.grad, outer)


@pytest.mark.parametrize("learned", [False, True])
def test_pruned_entries_get_no_gradient_and_count_in_no_sum(learned):
    mask, outer = noise(5, 6, seed=2) > 0, noise(5, 6, seed=1)
    latent = torch.where(mask, noise(5, 6), 0)
    form = Ternary(latent.shape, 0.3, "largest", support=mask, start=latent if learned else None)
    latent.requires_grad_()
    form(latent).backward(outer)
    assert not latent.grad[~mask].any() and latent.grad[mask].all()
    assert not learned or float(form.positive.grad) == pytest.approx(float(outer[form(latent) > 0].sum()), rel=1e-5)


def test_a_value_that_crosses_zero_is_still_one_of_three():
    weight = noise(6, 6)
    form = Ternary(weight.shape, 0.05, "largest", start=weight)
    latent = form.right_inverse(weight)
    form.positive.data.fill_(-0.1)
    weight = form(latent)
    assert weight.unique().numel() == 3 and not torch.signbit(weight[weight == 0]).any()
    assert bits(decode(form.encode(latent))) == bits(form(latent))
    assert torch.equal(form(form.right_inverse(form(latent))), form(latent))


def test_nan_is_refused():
    with pytest.raises(ModelError, match="NaN"):
        Ternary(torch.Size((1, 2))).encode(torch.tensor([[1.0, float("nan")]]))
