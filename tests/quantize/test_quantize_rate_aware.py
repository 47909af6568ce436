"""Training for the file: the estimate against integrals, gradients against differences, and what is left."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tersenet import artifact, coding
from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.stage import parse_stage
from tersenet.flow.pack import contents_of
from tersenet.forms import Masked, Uniform, attach, decode, form_of, latent_of, match, weight_of, weights
from tersenet.forms.rated import Rated, coded_bits
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


def by_hand(numbers, mask):
    """Bits of each entry, one after the other, and jump and slope: each context counted anew without the entry."""
    coded = [place for place in np.ndindex(numbers.shape) if mask[place]]
    ones = {place for place in coded if numbers[place]}
    excess = sum(abs(int(numbers[place])) - 1 for place in ones)
    more = (excess + 1) / (excess + len(ones) + 2)
    overall = (len(ones) + 0.4) / (len(coded) + 0.8)
    axes = [(0,), (1,), *([tuple(range(2, numbers.ndim))] if math.prod(numbers.shape[2:]) > 1 else [])]

    def logit(p):
        return math.log(p / (1 - p))

    bits, jumps = np.zeros(numbers.shape), np.zeros(numbers.shape)
    for place in np.ndindex(numbers.shape):
        odds = logit(overall)
        for kept in axes:
            others = [o for o in coded if o != place and all(o[axis] == place[axis] for axis in kept)]
            # an entry outside the mask counts as one that is there
            seen = len(others) - (not mask[place])
            odds += logit((len(ones & {*others}) + 5 * overall) / (seen + 5)) - logit(overall)
        zero, one = math.log2(1 + math.exp(odds)), math.log2(1 + math.exp(-odds))
        jumps[place] = one + 1 - math.log2(1 - more) - zero
        size = abs(int(numbers[place]))
        bits[place] = (one + 1 - math.log2(1 - more) - (size - 1) * math.log2(more) if size else zero) * mask[place]
    return bits.sum(), jumps, -math.log2(more)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(1, 7), (4, 5), (3, 4, 2, 2), (2, 3, 1, 1)]), st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_bits_are_those_of_counts_without_the_entry(shape, seed, density):
    generator = np.random.default_rng(seed)
    numbers = generator.integers(-4, 5, shape) * (generator.random(shape) < density)
    x = torch.tensor(numbers + generator.uniform(-0.49, 0.49, shape), requires_grad=True)
    total, jumps, slope = by_hand(numbers, np.ones(shape, bool))
    jumps = np.maximum(jumps, slope)
    found = coded_bits(x)
    assert found.item() == pytest.approx(total, rel=1e-4, abs=1e-4)
    found.backward()
    noise = (np.arange(2000) + 0.5) / 2000 - 0.5

    def cost(x, jump):
        return jump * np.minimum(np.abs(x), 1) + slope * np.maximum(np.abs(x) - 1, 0)

    for place in np.ndindex(shape):  # the mean over the noise of the slope of C, by differences
        x_n = x[place].item() + noise
        mean = ((cost(x_n + 1e-6, jumps[place]) - cost(x_n - 1e-6, jumps[place])) / 2e-6).mean()
        assert x.grad[place].item() == pytest.approx(mean, rel=5e-3, abs=1e-2)


def test_what_lies_outside_the_mask_costs_nothing_and_is_not_counted():
    generator = np.random.default_rng(0)
    numbers, mask = generator.integers(-2, 3, (6, 8)), generator.random((6, 8)) < 0.6
    x = torch.tensor(numbers.astype(float), requires_grad=True)
    found = coded_bits(x, torch.tensor(mask))
    assert found.item() == pytest.approx(by_hand(numbers * mask, mask)[0], rel=1e-4)
    found.backward()
    assert not x.grad[torch.tensor(~mask)].any() and x.grad[torch.tensor(mask)].any()


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.full((3, 4), 3e4), torch.tensor([[1e4, -0.5, 0.5, 1e-9]])])
def test_bits_and_gradients_are_finite_at_the_ends(x):
    bits = coded_bits(x.requires_grad_())
    bits.backward()
    assert bool(bits.isfinite()) and bits.item() >= 0 and bool(x.grad.isfinite().all())


def test_the_step_is_drawn_by_what_it_does_to_all_numbers():
    torch.manual_seed(0)
    latent = torch.randn(6, 5, requires_grad=True)
    form = Rated(latent, 0.3, precision="float32")
    form.bits(latent).backward()
    assert form.log_step.grad.item() == pytest.approx(-(latent * latent.grad).sum().item(), rel=1e-4)


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


def test_bits_are_nearly_those_that_the_coder_of_the_file_spends():
    """Rows and columns of different density, as training leaves them; what learning that costs is not in the bits."""
    torch.manual_seed(0)
    likely = torch.sigmoid(torch.randn(120, 1) + torch.randn(200) - 3)
    sizes = torch.distributions.Geometric(0.6).sample((120, 200)) + 1
    weight = (torch.rand(120, 200) < likely) * sizes * (torch.rand(120, 200) < 0.5).float().mul(2).sub(1)
    form = Rated(weight, 1.0, precision="float32")
    code = form.encode(weight)
    (stream,) = code.streams.values()
    written = len(coding.encode(stream, "mix").payload)
    assert form.bits(weight).item() / 8 == pytest.approx(written, rel=0.2)


def estimated(context):
    note = next(note for note in reversed(context.notes) if "are estimated" in note)
    return note.split(" bytes")[0].replace(",", "")


TRAIN = {"steps": 300, "lr": 0.01}


def test_bits_cost_and_what_is_not_worth_them_goes(context):
    files, losses, zeros = [], [], []
    for price in (1e-7, 3e-5, 3e-4):
        model = stage(price=price, remove=False, order=False, finetune=TRAIN).apply(net(), context)
        data, _ = artifact.to_bytes(contents_of(model, Recipe.parse({}), None))
        files.append(len(data))
        losses.append(context.evaluate(model)["loss"])
        zeros.append(int((model[0].weight[:, 10:] == 0).sum()))
        assert {type(form_of(t)) for t in weights(model)} == {Uniform}  # biases too
        assert all(weight_of(t).unique().numel() <= form_of(t).levels for t in weights(model))
    assert files[0] > files[1] > files[2] and losses[0] < losses[2] and zeros[2] == 300


def test_units_that_became_zero_are_taken_out_and_nothing_else_changes(context):
    options = ({"remove": False, "order": False}, {"order": False})
    full, small = (stage(price=3e-4, finetune=TRAIN, **kept).apply(net(), context) for kept in options)
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
        estimate = float(estimated(context))
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
        model = stage(error=wanted, finetune={"steps": 1000, "lr": 0.01}).apply(net(), context)
        assert 0.5 * wanted < context.evaluate(model)["error"] < 1.4 * wanted
        estimates.append(float(estimated(context)))
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
    assert form.bits(latent_of(first)).item() < free.bits(latent_of(first)).item()
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
