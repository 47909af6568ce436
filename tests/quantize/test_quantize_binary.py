"""The stage: what weights become, what trains them, what is stored, and what it refuses."""

import copy
import math

import pytest
import torch
from torch import nn

import tersenet.quantize
import tersenet.quantize.binary as stage_module
from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.seeds import generator
from tersenet.core.stage import parse_stage
from tersenet.forms import NM, Binary, Masked, Shared, attach, encode_model, form_of, latent_of, match, weight_of
from tersenet.quantize.binary import glorot

NONE = {"scale": "none"}
TRAIN = {"steps": 20, "lr": 0.05}


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4), nn.BatchNorm1d(4))


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(16, 8),), torch.randn(16, 4))


def binary(model, context, **options):
    return parse_stage({"method": "quantize.binary", **options}).apply(model, context)


def halve(model):
    for target in match(model):
        weight = weight_of(target)
        attach(target, Masked(weight.abs() >= weight.abs().median()))
    return model


def test_without_training_each_filter_becomes_its_signs_times_its_mean(context):
    model = net()
    before = [weight_of(target).clone() for target in match(model)]
    binary(model, context)
    for target, old in zip(match(model), before, strict=True):
        torch.testing.assert_close(weight_of(target), old.sign() * old.abs().mean(1, keepdim=True))
    assert context.notes == [] and context.trained == []


def test_filters_of_a_transposed_convolution_lie_along_its_second_axis(context):
    layer = nn.ConvTranspose2d(3, 5, 2)
    old = layer.weight.detach().clone()
    binary(layer, context)
    torch.testing.assert_close(layer.weight, old.sign() * old.abs().mean((0, 2, 3), keepdim=True))


@pytest.mark.parametrize("options", [NONE, {"scale": "tensor"}, {}], ids=str)
def test_pruned_weights_stay_zero(context, options):
    model = halve(net())
    supports = [weight_of(target) != 0 for target in match(model)]
    binary(model, context, **options, finetune=TRAIN)
    for target, support in zip(match(model), supports, strict=True):
        weight, form = weight_of(target), form_of(target)
        assert torch.equal(weight != 0, support) and weight.unique().numel() <= form.distinct
        assert form.distinct == (2 * len(weight) + 1 if not options else 3)


def test_binaryconnect_as_its_algorithm_1_says(context):
    """Written out with the learning rate scaled as in §2.5: w ← clip(w − η/H² · ∂C/∂w_b, −1, 1) for SGD."""
    torch.manual_seed(3)
    layer = nn.Linear(8, 4, bias=False)
    scale = glorot((4, 8))
    assert scale == pytest.approx(math.sqrt(1.5 / (8 + 4)))
    w, x, y = layer.weight.detach() / layer.weight.detach().abs().max(), context.inputs[0], context.target
    flips = clips = 0
    for _ in range(15):
        signs = torch.where(w >= 0, 1.0, -1.0).requires_grad_()
        (x @ signs.T - y).square().mean().backward()
        new = (w - 0.1 / scale**2 * signs.grad).clamp(-1, 1)
        flips, clips = flips + int(((new >= 0) != (w >= 0)).sum()), clips + int((new.abs() == 1).sum())
        w = new
    binary(layer, context, **NONE, finetune={"steps": 15, "lr": 0.1, "optimizer": "sgd", "momentum": 0})
    assert flips > 10 and clips > 3, "the example must flip signs and reach the clip"
    torch.testing.assert_close(latent_of(match(layer)[0]).detach() / scale, w)
    assert torch.equal(layer.weight, torch.where(w >= 0, 1.0, -1.0))


@pytest.mark.parametrize("bound", ["glorot", 0.5])
def test_latents_are_within_the_bound_after_every_step(context, bound):
    model = net()
    reached = []

    def watch(model):  # after the optimizer, before the stage's own callback: one step's way beyond at most
        reached.append(max(latent_of(t).abs().max().item() / form_of(t).bound for t in match(model)))

    context.watch = watch
    binary(model, context, **NONE, bound=bound, finetune={"steps": 40, "lr": 0.02})
    assert max(reached) > 1
    assert all(latent_of(t).abs().max() <= form_of(t).bound for t in match(model))
    bounds = [form_of(target).bound for target in match(model)]
    assert bounds == ([glorot((12, 8)), glorot((4, 12))] if bound == "glorot" else [0.5, 0.5])


def test_stochastic_signs_are_new_in_each_step_the_same_within_one_and_off_afterwards(context):
    model, seen = net(), []

    def watch(model):
        signs, again = weight_of(match(model)[0]), weight_of(match(model)[0])
        assert torch.equal(signs, again) and set(signs.unique().tolist()) == {-1.0, 1.0}
        seen.append(form_of(match(model)[0]).draw.item())

    context.watch = watch
    torch.manual_seed(5)
    state = torch.get_rng_state()
    binary(model, context, **NONE, stochastic=True, finetune=TRAIN)
    assert torch.equal(torch.get_rng_state(), state), "chance comes from the run's seed, not from a global generator"
    expected = [torch.randint(2**62, (1,), generator=generator(0, "binary", "0.weight", i)).item() for i in range(20)]
    assert seen == expected and len(set(seen)) == 20
    for target in match(model):
        assert torch.equal(weight_of(target), torch.where(latent_of(target) >= 0, 1.0, -1.0))
        assert form_of(target).draw.item() == -1


def test_stochastic_and_deterministic_training_differ(context):
    results = []
    for stochastic in (False, True):
        model = binary(net(), context, **NONE, stochastic=stochastic, finetune=TRAIN)
        results.append(latent_of(match(model)[0]).detach())
    assert not torch.equal(*results)


@pytest.mark.parametrize("pruned", [False, True])
def test_real_weights_at_test_time_are_evaluated_and_stored(context, pruned):
    model, figures = halve(net()) if pruned else net(), []
    twin = copy.deepcopy(model)

    def watch(model):
        model.eval()
        figures.append(weight_of(match(model)[0]).unique().numel())
        model.train()

    context.watch = watch
    binary(model, context, **NONE, stochastic=True, test="latent", finetune=TRAIN)
    context.watch = None
    binary(twin, context, **NONE, stochastic=True, finetune=TRAIN)
    assert min(figures) > 3
    for target, other in zip(match(model), match(twin), strict=True):
        weight, latent = weight_of(target), latent_of(other).detach() / form_of(other).bound
        torch.testing.assert_close(weight, latent)
        assert weight.abs().max() <= 1 and (form_of(target) is not None) == pruned
        assert encode_model(model)[target.name].form == ("masked" if pruned else "dense")


def test_real_weights_come_back_under_the_form_they_had(context):
    layer = nn.Linear(8, 4)
    mask = torch.tensor([True, False, True, False] * 8).view(4, 8)
    attach(match(layer)[0], NM(mask, 2, 4))
    binary(layer, context, **NONE, test="latent", finetune=TRAIN)
    assert form_of(match(layer)[0]).name == "nm" and torch.equal(layer.weight != 0, mask)


def test_it_trains(context):
    model = binary(net(), context, **NONE)
    start = context.evaluate(model)["loss"]
    for options in (NONE, {}, {**NONE, "stochastic": True}):
        model = binary(net(), context, **options, finetune={"steps": 200, "lr": 0.02})
        assert context.evaluate(model)["loss"] < 0.6 * start


def few(layer, values):
    """A layer that was promised to take few values."""
    (target,) = match(layer)
    attach(target, Shared(torch.arange(weight_of(target).numel()).view(target.shape) % values, values, zero=False))
    return layer


def test_what_takes_few_values_already_gets_no_more(context):
    layer = binary(few(nn.Linear(8, 4), 3), context)
    assert layer.weight.unique().numel() == 2 and form_of(match(layer)[0]).axis is None
    assert context.notes == ["weight takes 3 values already, too few for a scale for each filter; it gets one for all"]
    same = few(nn.Linear(8, 4), 1)
    before = same.weight.detach().clone()
    assert torch.equal(binary(same, context).weight, before) and form_of(match(same)[0]).name == "shared"
    assert "it is left as it is" in context.notes[-1]
    with pytest.raises(RecipeError, match=r"weight more than its 3 values"):
        binary(few(nn.Linear(8, 4), 3), context, **NONE, test="latent", finetune=TRAIN)


def test_again_is_the_same(context):
    model = binary(net(), context)
    before = [weight_of(target).clone() for target in match(model)]
    binary(model, context)
    assert all(torch.equal(weight_of(t), old) for t, old in zip(match(model), before, strict=True))


def test_ignored_layers_stay_as_they_are(context):
    model = net()
    before = model[3].weight.detach().clone()
    binary(model, context, ignore=["3"])
    assert form_of(match(model)[1]) is None and torch.equal(model[3].weight, before)
    assert isinstance(form_of(match(model)[0]), Binary)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_weights_without_signs_are_named(context, value):
    model = net()
    if value == 0:
        model[3].weight.data.zero_()
    else:
        model[3].weight.data[0, 0] = value
    with pytest.raises(ModelError, match=r"^3\.weight holds (zeros alone|NaN or infinity)"):
        binary(model, context)


def test_a_bias_is_refused_before_anything_is_done(context):
    stage = parse_stage({"method": "quantize.binary", "targets": ["0.bias"]})
    for act in (stage.check, lambda model: stage.apply(model, context)):
        with pytest.raises(RecipeError, match=r"0\.bias is a vector"):
            act(net())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "layer"}, "scale"),
        ({**NONE, "bound": 0, "finetune": TRAIN}, "bound: must be 'glorot' or a number greater than 0, not 0"),
        ({**NONE, "bound": "he", "finetune": TRAIN}, "bound: must be 'glorot'"),
        ({**NONE, "bound": True, "finetune": TRAIN}, "bound: must be 'glorot'"),
        ({"stochastic": True, "finetune": TRAIN}, "'stochastic' goes with 'scale: none'"),
        ({"bound": 1, "finetune": TRAIN}, "'bound' goes with 'scale: none'"),
        ({"test": "latent", "finetune": TRAIN}, "'test' goes with 'scale: none'"),
        ({**NONE, "stochastic": True}, "'stochastic' says how to train and needs 'finetune'"),
    ],
    ids=str,
)
def test_wrong_options_are_one_sentence(options, message):
    with pytest.raises(RecipeError, match=message) as error:
        parse_stage({"method": "quantize.binary", **options})
    assert "\n" not in str(error.value)


def test_the_exports_are_the_stage():
    assert tersenet.quantize.Binarization is stage_module.Binarization
