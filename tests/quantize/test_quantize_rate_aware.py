"""Training for the file: the estimate against integrals, gradients against differences, and what is left."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn

from tersenet import artifact
from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.stage import parse_stage
from tersenet.flow.pack import contents_of
from tersenet.forms import Masked, Uniform, attach, decode, form_of, latent_of, match, weight_of, weights
from tersenet.forms.rated import Rated, laplace_bits
from tersenet.quantize.rate_aware import RateAware
from tersenet.quantize.uniform import UniformQuantization


def stage(**options):
    return parse_stage({"method": RateAware.method, **options})


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    x = torch.randn(128, 20)
    x[:, 10:] *= 0.01  # the target does not depend on these
    return toy_context((x,), torch.relu(x[:, :4] @ torch.randn(4, 4)))


@settings(max_examples=100, deadline=None)
@given(st.floats(-30, 30), st.floats(-4, 4))
def test_bits_are_those_of_the_integral(x, log_scale):
    b = math.exp(log_scale)
    points = sorted(p for p in (0.0,) if x - 0.5 < p < x + 0.5)
    mass = quad(lambda t: math.exp(-abs(t) / b) / (2 * b), x - 0.5, x + 0.5, points=points or None)[0]
    found = float(laplace_bits(torch.tensor(x, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64)))
    if mass > 1e-200:
        assert found == pytest.approx(-math.log2(mass), rel=1e-5, abs=1e-5)


def test_numbers_have_a_probability_that_sums_to_one():
    for log_scale in (-3.0, -1.0, 0.0, 1.5):
        bits = laplace_bits(torch.arange(-400, 401, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64))
        assert float((2**-bits).sum()) == pytest.approx(1, abs=1e-6)


def test_bits_and_gradients_are_finite_far_out():
    x = torch.tensor([-1e4, -0.5, 0.0, 0.5, 0.49999, 1e4], requires_grad=True)
    log_scale = torch.tensor([-20.0, -20.0, -20.0, 20.0, 0.0, -9.0], requires_grad=True)
    bits = laplace_bits(x, log_scale)
    bits.sum().backward()
    assert all(bool(t.isfinite().all()) for t in (bits, x.grad, log_scale.grad)) and bool((bits >= 0).all())


def test_gradients_of_bits_are_those_of_differences():
    torch.manual_seed(0)
    x, log_scale = 3 * torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    x = x[(x.abs() - 0.5).abs() > 1e-3]
    arguments = (x.requires_grad_(), log_scale[: len(x)].clone().requires_grad_())
    assert torch.autograd.gradcheck(laplace_bits, arguments)


def test_forward_is_rounded_and_its_gradients_are_straight_through():
    torch.manual_seed(0)
    latent, slope = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    form = Rated(latent, 0.3, precision="float32")
    weight = form(latent)
    step = form.step.item()
    numbers = np.rint(latent.detach().numpy() / np.float32(step))
    assert np.array_equal(weight.detach().numpy(), numbers * np.float32(step))
    (weight * slope).sum().backward()
    assert torch.equal(latent.grad, slope)
    expected = sum(
        g * (round(w / step) - w / step) * step  # by the logarithm of the step
        for w, g in zip(latent.detach().flatten().tolist(), slope.flatten().tolist(), strict=True)
    )
    assert float(form.log_step.grad) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (4, 3, 3, 3)])
def test_what_is_stored_is_what_it_computes_with(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    form = Rated(weight, 0.37, support=weight.abs() > 0.3)
    with torch.no_grad():
        value = form(weight)
    code = form.encode(weight)
    assert code.form == "uniform" and torch.equal(decode(code), value)
    assert torch.equal(form.plain(weight)(weight), value) and not value[weight.abs() <= 0.3].any()


def test_the_estimate_is_near_what_an_adaptive_code_takes():
    """Rows of different scale: bits of the fitted density against the empirical entropy of each row."""
    torch.manual_seed(0)
    scales = torch.tensor([0.2, 1.0, 5.0])[:, None]
    weight = torch.distributions.Laplace(0.0, 1.0).sample((3, 4000)) * scales
    form = Rated(weight, 1.0, precision="float32")
    rates = [p for name, p in form.named_parameters() if name != "log_step"]
    optimizer = torch.optim.Adam(rates, lr=0.05)
    for noise in torch.rand(200).tolist():
        optimizer.zero_grad()
        form.bits(weight, noise).backward()
        optimizer.step()
    entropy = 0.0
    for row in weight.round():
        _, counts = row.unique(return_counts=True)
        p = counts / counts.sum()
        entropy -= float((p * p.log2()).sum()) * len(row)
    assert form.bits(weight, 0.5).item() == pytest.approx(entropy, rel=0.06)


def test_the_noise_of_each_entry_is_uniform_over_the_steps_and_spread_over_the_entries():
    """For numbers far out the bits are linear in the noise, so that they tell what it was."""
    form = Rated(torch.full((4, 5), 100.0), 1.0, precision="float32")
    scale = math.exp(float(form.log_scale.detach()))

    def noise(entry, turn):
        support = torch.zeros(20)
        support[entry] = 1
        form.mask = support.view(4, 5).bool()
        tail = form.bits(torch.full((4, 5), 100.0), turn).item() * math.log(2)
        return (tail - math.log(2) + math.log(-math.expm1(-1 / scale))) * scale - 99.5

    over_steps = sorted(noise(7, turn / 50) for turn in range(50))
    assert over_steps == pytest.approx([k / 50 - 0.5 + over_steps[0] % 0.02 for k in range(50)], abs=2e-3)
    over_entries = sorted(noise(entry, 0.4) for entry in range(20))
    gaps = np.diff([*over_entries, over_entries[0] + 1])
    assert gaps.min() > 0.02 and gaps.max() < 0.1  # three lengths at most (Steinhaus), near to 1/20


TRAIN = {"steps": 300, "lr": 0.01}


def test_bits_cost_and_what_is_not_worth_them_goes(context):
    files, losses, zeros = [], [], []
    for price in (1e-7, 3e-5, 3e-4):
        model = stage(price=price, remove=False, finetune=TRAIN).apply(net(), context)
        data, _ = artifact.to_bytes(contents_of(model, Recipe.parse({}), None))
        files.append(len(data))
        losses.append(context.evaluate(model)["loss"])
        zeros.append(int((model[0].weight[:, 10:] == 0).sum()))
        assert {type(form_of(t)) for t in weights(model)} == {Uniform}  # biases too
        assert all(weight_of(t).unique().numel() <= form_of(t).levels for t in weights(model))
    assert files[0] > files[1] > files[2] and losses[0] < losses[2] and zeros[2] == 300


def test_units_that_became_zero_are_taken_out_and_nothing_else_changes(context):
    full, small = (stage(price=3e-4, remove=remove, finetune=TRAIN).apply(net(), context) for remove in (False, True))
    alive = (full[0].weight != 0).any(1) & (full[2].weight != 0).any(0)
    assert 0 < int(alive.sum()) < 30 and small[0].weight.shape == (int(alive.sum()), 20)
    assert torch.equal(small[0].weight, full[0].weight[alive]) and torch.equal(
        small[2].weight, full[2].weight[:, alive]
    )
    assert {type(form_of(t)) for t in weights(small)} == {Uniform}
    (x,) = context.inputs
    (last,) = (form_of(t) for t in weights(full) if t.name == "2.bias")
    half = float(last.step) / 2  # what removed units still gave is added to the bias, which is then rounded
    torch.testing.assert_close(small(x), full(x), atol=half + 1e-5, rtol=0)
    assert any("channels that are zero removed" in note for note in context.notes)


def test_bytes_that_were_asked_for_are_what_it_takes(context):
    for size in (150, 300):
        model = stage(bytes=size, finetune={"steps": 800, "lr": 0.01}).apply(net(), context)
        estimate = float(context.notes[-1].split(" bytes")[0].replace(",", ""))
        assert estimate == pytest.approx(size, rel=0.15)
        _, ledger = artifact.to_bytes(contents_of(model, Recipe.parse({}), None), "best")
        assert sum(row.values + row.positions for row in ledger.rows) < 1.6 * size  # small, so that tables cost
    assert not [name for name, _ in model.named_buffers() if "price" in name]


def test_the_error_that_was_asked_for_is_nearly_what_comes_out(toy_context):
    """Four classes of a random network, which a dense net learns to 2 %."""
    torch.manual_seed(1)
    x = torch.randn(1000, 20)
    target = torch.relu(x[:, :8] @ torch.randn(8, 16)).matmul(torch.randn(16, 4)).argmax(1)

    class Classifying(toy_context):
        def loss(self, model, batch=None):
            return nn.functional.cross_entropy(model(*self.inputs), self.target)

        def evaluate(self, model, split="validation"):
            with torch.no_grad():
                return {"error": float((model(*self.inputs).argmax(1) != self.target).float().mean())}

    estimates = []
    for wanted in (0.06, 0.18):
        context = Classifying((x,), target)
        model = stage(error=wanted, finetune={"steps": 600, "lr": 0.01}).apply(net(), context)
        assert 0.5 * wanted < context.evaluate(model)["error"] < 1.25 * wanted
        estimates.append(float(context.notes[-1].split(" bytes")[0].replace(",", "")))
    assert estimates[1] < 0.8 * estimates[0]
    with pytest.raises(RecipeError, match="no classes"):
        stage(error=0.1, finetune=TRAIN).apply(net(), toy_context((x,), x[:, :4]))


def test_pruned_weights_stay_zero_and_cost_nothing(context):
    model = net()
    (first, _) = match(model)
    mask = weight_of(first).abs() > 0.1
    attach(first, Masked(mask))
    form = Rated(weight_of(first), 0.01, support=mask)
    free = Rated(weight_of(first), 0.01)
    assert form.bits(latent_of(first), 0.3).item() < free.bits(latent_of(first), 0.3).item()
    model = stage(price=1e-6, finetune=TRAIN).apply(model, context)
    assert not model[0].weight[~mask].any()


def test_biases_can_stay_as_they_are_and_settled_weights_do(context):
    model = parse_stage({"method": UniformQuantization.method, "targets": ["0"]}).apply(net(), context)
    before = form_of(match(model)[0])
    model = stage(price=1e-6, biases=False, finetune=TRAIN).apply(model, context)
    assert form_of(match(model)[0]) is before and form_of(match(model)[1]) is not None
    assert all(form_of(t) is None for t in weights(model) if t.vector)
    assert any("0.weight takes" in note for note in context.notes)


def test_mistakes_are_named(context):
    for options, message in (
        ({"finetune": TRAIN}, "one of 'price'"),
        ({"price": 1e-6, "bytes": 9, "finetune": TRAIN}, "one of 'price'"),
        ({"price": 1e-6, "error": 0.1, "finetune": TRAIN}, "one of 'price'"),
        ({"error": 1.5, "finetune": TRAIN}, "error"),
        ({"price": 1e-6}, "finetune"),
        ({"price": 0, "finetune": TRAIN}, "price"),
    ):
        with pytest.raises(RecipeError, match=message):
            stage(**options)
    with pytest.raises(RecipeError, match="is a vector"):
        stage(price=1e-6, finetune=TRAIN, targets=["0.bias"]).check(net())
    broken = net()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"0\.weight holds NaN"):
        stage(price=1e-6, finetune=TRAIN).apply(broken, context)
