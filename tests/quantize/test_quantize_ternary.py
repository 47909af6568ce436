"""The stage: what weights become, what trains, and what it refuses."""

import pytest
import torch
from torch import nn

import tersenet.quantize  # noqa: F401
from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Binary, Masked, Shared, Ternary, attach, form_of, latent_of, match, weight_of


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(16, 8),), torch.randn(16, 4))


def ternary(model, context, **options):
    return parse_stage({"method": "quantize.ternary", **options}).apply(model, context)


def test_fixed_values_are_a_ternary_weight_network(context):
    model = net()
    before = [weight_of(target).clone() for target in match(model)]
    ternary(model, context, values="fixed")
    for target, old in zip(match(model), before, strict=True):
        kept = old.abs() > 0.7 * old.abs().mean()
        torch.testing.assert_close(weight_of(target), old.sign() * kept * old[kept].abs().mean())


def test_trained_values_start_with_a_threshold_at_a_twentieth_of_the_largest(context):
    model = net()
    before = [weight_of(target).clone() for target in match(model)]
    ternary(model, context)
    for target, old in zip(match(model), before, strict=True):
        delta, weight = 0.05 * old.abs().max(), weight_of(target)
        assert torch.equal(weight == 0, old.abs() <= delta)
        for side in (old > delta, old < -delta):
            torch.testing.assert_close(weight[side], old[side].mean().expand(int(side.sum())))


def test_a_threshold_and_a_share_of_ones_own(context):
    model = ternary(net(), context, threshold=0.5)
    assert torch.equal(model[0].weight == 0, net()[0].weight.abs() <= 0.5 * net()[0].weight.abs().max())
    for values in ("fixed", "trained"):
        model = ternary(net(), context, values=values, sparsity=0.75, finetune={"steps": 30, "lr": 0.05})
        assert [int((weight_of(t) == 0).sum()) for t in match(model)] == [72, 36], "in every step anew"


def test_a_filter_each_has_values_of_its_own(context):
    model = ternary(net(), context, scale="filter", finetune={"steps": 30, "lr": 0.05})
    for target in match(model):
        rows = weight_of(target)
        assert all(row.unique().numel() <= 3 for row in rows) and rows.unique().numel() > 3
        assert form_of(target).distinct == 2 * len(rows) + 1


def test_values_latents_and_zeros_train(context):
    model = ternary(net(), context)
    start, before = context.evaluate(model)["loss"], [weight_of(target).clone() for target in match(model)]
    model = ternary(net(), context, finetune={"steps": 200, "lr": 0.02})
    assert context.evaluate(model)["loss"] < 0.5 * start
    for target, old in zip(match(model), before, strict=True):
        weight, form = weight_of(target), form_of(target)
        assert not torch.equal(weight == 0, old == 0) and weight.unique().numel() == 3
        assert form.positive.item() != -form.negative.item()


def test_pruned_weights_stay_zero_and_count_in_nothing(context):
    model = net()
    for target in match(model):
        weight = weight_of(target)
        attach(target, Masked(weight.abs() >= weight.abs().quantile(0.8)))
    supports = [weight_of(target) != 0 for target in match(model)]
    ternary(model, context, values="fixed")
    for target, support in zip(match(model), supports, strict=True):
        latent = latent_of(target).detach()[support]
        assert torch.equal(weight_of(target)[support] == 0, latent.abs() <= 0.7 * latent.abs().mean())
    ternary(model, context, finetune={"steps": 50, "lr": 0.05})
    for target, support in zip(match(model), supports, strict=True):
        assert not weight_of(target)[~support].any() and weight_of(target).unique().numel() <= 3


def test_what_takes_few_values_already_gets_no_more(context):
    layer = nn.Linear(8, 4)
    (target,) = match(layer)
    attach(target, Binary(layer.weight.shape, scaled=True))
    before = layer.weight.detach().clone()
    ternary(layer, context)
    assert torch.equal(layer.weight, before) and form_of(match(layer)[0]).name == "binary"
    assert context.notes == ["weight is binary already; it is left as it is"]
    for values, form in ((2, "shared"), (4, "ternary")):
        layer = nn.Linear(8, 4)
        (target,) = match(layer)
        attach(target, Shared(torch.arange(32).reshape(4, 8) % values, values, zero=False))
        ternary(layer, context, scale="filter")
        assert form_of(match(layer)[0]).name == form and layer.weight.unique().numel() <= values
    assert "takes 2 values already, fewer than this would give it" in context.notes[1]
    assert "too few for a scale for each filter" in context.notes[2]


def test_a_constant_weight_is_held_exactly(context):
    layer = nn.Linear(3, 2)
    layer.weight.data.fill_(-0.3)
    for options in ({}, {"values": "fixed"}, {"sparsity": 0.5}, {"scale": "filter"}):
        ternary(layer, context, **options)
        assert torch.equal(layer.weight, torch.full((2, 3), -0.3))


def test_weights_without_signs_and_vectors_are_named(context):
    model = net()
    model[2].weight.data.zero_()
    with pytest.raises(ModelError, match=r"^2\.weight holds zeros alone"):
        ternary(model, context)
    model = net()
    model[0].weight.data[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"^0\.weight holds NaN or infinity"):
        ternary(model, context)
    with pytest.raises(RecipeError, match=r"0\.bias is a vector"):
        parse_stage({"method": "quantize.ternary", "targets": ["0.bias"]}).check(net())


def test_ignored_layers_stay_as_they_are(context):
    model = ternary(net(), context, ignore=["0"])
    assert [type(form_of(target)) for target in match(model)] == [type(None), Ternary]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.1, "sparsity": 0.5}, "give one of 'threshold' and 'sparsity'"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": 1.0}, "threshold"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"values": "learned"}, "values"),
        ({"scale": "none"}, "scale"),
    ],
    ids=str,
)
def test_wrong_options_are_one_sentence(options, message):
    with pytest.raises(RecipeError, match=message) as error:
        parse_stage({"method": "quantize.ternary", **options})
    assert "\n" not in str(error.value)
