"""The stage on layers of each kind: real bytes, masks, budgets, feedback on data, and mistakes told in a sentence."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersenet import artifact
from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.stage import parse_stage
from tersenet.flow.pack import contents_of
from tersenet.forms import Masked, Uniform, attach, decode, encode_model, form_of, load_codes, match, weight_of
from tersenet.forms.dependent import Dependent
from tersenet.quantize import rounder
from tersenet.quantize.calibration import Calibration
from tersenet.quantize.curvature import Moments, at_outputs
from tersenet.quantize.rdoq import RateDistortionQuantization
from tersenet.quantize.uniform import UniformQuantization


def stage(**options):
    return parse_stage({"method": RateDistortionQuantization.method, **options})


class Net(nn.Module):
    """Tokens, an embedding, a convolution of two groups, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.words, self.conv, self.fc = nn.Embedding(11, 8), nn.Conv1d(8, 12, 3, groups=2), nn.Linear(12, 5)

    def forward(self, tokens):
        return self.fc(torch.relu(self.conv(self.words(tokens).movedim(1, 2))).amax(2))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randint(11, (256, 9)),), torch.randn(256, 5))


def file_bytes(model):
    """Of the weights with a form, in the file."""
    _, ledger = artifact.to_bytes(contents_of(model, Recipe.parse({}), None), "best")
    names = {target.name for target in match(model)}
    return sum(row.values + row.positions + row.tables for row in ledger.rows if row.name in names)


@pytest.mark.parametrize("states", [None, 4, 8])
def test_it_is_what_the_file_gives_back_and_bytes_fall_with_the_price(model, context, states):
    sizes = []
    for price in (1e-7, 1e-5, 1e-4):
        found = stage(price=price, states=states).apply(copy.deepcopy(model), copy.deepcopy(context))
        assert {type(form_of(t)) for t in match(found)} == {Uniform if states is None else Dependent}
        fresh = Net()
        load_codes(fresh, encode_model(found, "float32"))
        assert all(torch.equal(weight_of(a), weight_of(b)) for a, b in zip(match(found), match(fresh), strict=True))
        sizes.append(file_bytes(found))
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("options", [{}, {"feedback": False, "states": 4}])
def test_the_file_keeps_a_budget_of_bytes_and_uses_it(model, context, options):
    found = stage(bytes=220, **options).apply(model, context)
    assert 0.85 * 220 < file_bytes(found) <= 220
    assert f"{file_bytes(found):,} bytes" in context.notes[-1]


def test_price_zero_without_feedback_is_rounding_to_nearest(model, context):
    old = {target.name: weight_of(target).clone() for target in match(model)}
    stage(price=0, step=0.3, feedback=False, precision="float32").apply(model, context)
    for target in match(model):
        weight, step = old[target.name], 0.3 * old[target.name].double().std(correction=0).float()
        torch.testing.assert_close(weight_of(target), (weight / step).round() * step)


@pytest.mark.parametrize("states", [None, 8])
def test_what_is_pruned_stays_zero(model, context, states):
    masks = {}
    for target in match(model):
        masks[target.name] = weight_of(target).abs() > 0.3 * weight_of(target).std()
        attach(target, Masked(masks[target.name]))
    stage(price=1e-6, states=states).apply(model, context)
    for target in match(model):
        assert not weight_of(target)[~masks[target.name]].any() and weight_of(target).any()
        assert torch.equal(form_of(target).support, masks[target.name])


def test_feedback_keeps_outputs_where_inputs_hang_together(toy_context):
    """Without a price, at the same step: the error of the outputs, biases included, against nearest."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 10))
    x = torch.randn(512, 30) @ (torch.eye(30) + 0.8 * torch.diag(torch.ones(29), 1)) + 1
    with torch.no_grad():
        wanted = net(x)
    errors = []
    for feedback in (False, True):
        context = toy_context((x,), wanted + torch.randn(512, 10))
        options = {"price": 0, "step": 0.8, "feedback": feedback, "weighting": "outputs"}
        found = stage(**options).apply(copy.deepcopy(net), context)
        with torch.no_grad():
            errors.append(float(F.mse_loss(found(x), wanted)))
        assert torch.equal(found[0].bias, net[0].bias) is not feedback
    assert errors[1] < 0.4 * errors[0]


def test_moments_of_a_convolution_are_those_of_its_unfolded_inputs(context):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(8, 2, 5, 5)
    calibration, weight = Calibration(conv, match(conv), [(x,)]), conv.weight.detach()
    harm = Moments(calibration, context).harm(calibration.layers[0], weight, np.ones(3), centred=False)
    rows = F.unfold(x, 3, padding=1).movedim(1, 2).reshape(-1, 18).double()
    gram = rows.T @ rows / len(rows)
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(18)
    torch.testing.assert_close(torch.from_numpy(harm.gram[0]), damped, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(harm.weight, weight.reshape(3, -1), atol=1e-4)  # nothing to make up for
    change = np.random.default_rng(0).standard_normal((3, 18))
    outputs = rows.numpy() @ change.T
    ridge = 0.01 * float(gram.diagonal().mean()) * (change**2).sum()
    assert harm.of(harm.weight + change) == pytest.approx(0.5 * ((outputs**2).mean(0).sum() + ridge), rel=1e-4)


def test_the_harm_is_how_the_loss_rises(toy_context):
    """Of a small change of a classifier's weights: the mean KL divergence between its answers before and after, which
    is the rise of the loss on labels that it draws itself; here gradients at outputs hang on inputs but little."""
    torch.manual_seed(0)
    net, x = nn.Linear(6, 4), torch.randn(4000, 6)
    context = toy_context((x,), torch.zeros(4000, dtype=torch.long))
    context.loss = lambda model, batch: F.cross_entropy(model(*batch[0]), batch[1])
    batches = list(context.batches(batch_size=500))
    calibration = Calibration(net, match(net), [inputs for inputs, _ in batches])
    rows, _ = at_outputs(net, calibration.layers, [], batches, context)
    (layer,) = calibration.layers
    harm = Moments(calibration, context).harm(layer, net.weight.detach(), rows[layer.target], centred=False)
    change = 0.02 * torch.randn(4, 6)
    with torch.no_grad():
        before, after = net(x).log_softmax(1), F.linear(x, net.weight + change, net.bias).log_softmax(1)
    rise = float((before.exp() * (before - after)).sum(1).mean())
    # the outputs' factor without what lies off its diagonal
    assert harm.of(harm.weight + change.double().numpy()) == pytest.approx(rise, rel=0.4)


def test_weights_that_no_layer_multiplies_by_inputs_are_rounded_alone_with_a_note(model, context):
    stage(price=1e-5).apply(model, context)
    assert [note for note in context.notes if "without feedback" in note] == [
        "words.weight (Embedding) is rounded without feedback: it is not in use by linear layers or convolutions alone"
    ]


def test_settled_weights_are_left_and_a_plan_measures_nothing(model, context):
    parse_stage({"method": UniformQuantization.method, "targets": ["fc"]}).apply(model, context)
    before = form_of(match(model, ["fc"])[0])
    context.dry, context.inputs, context.target = True, (), torch.zeros(0)
    stage(bytes=100).apply(model, context)
    assert form_of(match(model, ["fc"])[0]) is before and isinstance(form_of(match(model, ["conv"])[0]), Uniform)
    assert any("fc.weight takes" in note for note in context.notes)


def test_a_loss_without_gradients_is_told(model, context):
    context.loss = lambda net, batch: 0 * net(*batch[0]).sum()
    stage(price=1e-4).apply(model, context)
    assert any("no gradients" in note for note in context.notes)


def test_mistakes_are_named(model, context):
    for options, message in (
        ({}, "either 'price'"),
        ({"price": 1e-6, "bytes": 9}, "either 'price'"),
        ({"price": -1e-6}, "price"),
        ({"price": 0}, "give a 'step'"),
        ({"price": 1e-6, "states": 5}, "states"),
        ({"price": 1e-6, "precision": "int8"}, "float32 or float16"),
        ({"price": 1e-6, "weighting": "none", "feedback": True}, "looks at no data"),
    ):
        with pytest.raises(RecipeError, match=message):
            stage(**options)
    with pytest.raises(RecipeError, match="is a vector"):
        stage(price=1e-6, targets=["fc.bias"]).check(model)
    with pytest.raises(RecipeError, match=r"take \d+ when all of them are zero; give at least"):
        stage(bytes=3).apply(model, context)
    with pytest.raises(ModelError, match="does not fit float16"):
        stage(price=1e-6, step=1e-8).apply(model, context)
    empty = copy.deepcopy(context)
    empty.inputs, empty.target = (context.inputs[0][:0],), context.target[:0]
    with pytest.raises(DataError, match="there are none"):
        stage(price=1e-6).apply(model, empty)
    with torch.no_grad():
        model.fc.weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"fc\.weight holds NaN or infinity"):
        stage(price=1e-6).apply(model, context)


def test_inputs_that_are_not_finite_are_told(toy_context):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    x[3, 1] = float("inf")
    with pytest.raises(ModelError, match=r"weight: its layer reads or gives NaN or infinity"):
        stage(price=1e-6, weighting="outputs").apply(nn.Linear(4, 3), toy_context((x,), torch.zeros(64, 3)))


@pytest.mark.parametrize("states", [None, 4])
def test_weights_of_fewer_bits_are_what_their_file_gives_back(toy_context, states):
    torch.manual_seed(0)
    net = nn.Linear(16, 16).bfloat16()
    old = weight_of(match(net)[0]).clone()
    context = toy_context((torch.randn(8, 16).bfloat16(),), torch.zeros(8, 16).bfloat16())
    stage(price=0, step=1e-2, weighting="none", states=states).apply(net, context)
    assert torch.equal(decode(encode_model(net)["weight"]), weight_of(match(net)[0]))
    torch.testing.assert_close(weight_of(match(net)[0]), old, atol=0.005, rtol=0.01)


def test_forms_decode_to_what_they_hold_or_refuse():
    torch.manual_seed(0)
    for form in (Dependent(torch.tensor([0.1]), 3, 4), Dependent(torch.tensor([0.07]), 40, 8, precision="float16")):
        for weight in (torch.randn(5, 4, 3), torch.randn(6), torch.tensor(0.3), 40 * torch.randn(7, 2).half()):
            code = form.encode(weight)
            assert torch.equal(decode(code), form(weight)) and form(weight).unique().numel() <= form.distinct
    broken = copy.deepcopy(code)
    broken.options["states"] = 5
    with pytest.raises(Exception, match="has 5 states"):
        decode(broken)
    with pytest.raises(ModelError, match="holds NaN"):
        form.encode(torch.tensor([float("nan")]))


def test_layers_with_very_many_inputs_are_rounded_alone_with_a_note(model, context, monkeypatch):
    monkeypatch.setattr(rounder, "MOST_COLUMNS", 12)
    old = [model.conv.bias.clone(), model.fc.bias.clone()]
    stage(price=1e-5, step=0.2).apply(model, context)
    assert [note for note in context.notes if "more than" in note] == []
    monkeypatch.setattr(rounder, "MOST_COLUMNS", 11)
    found = stage(price=1e-5, step=0.2).apply(Net(), context)
    assert "conv.weight is rounded without feedback: it has more than 11 inputs" in context.notes
    assert not torch.equal(model.conv.bias, old[0]) and not torch.equal(model.fc.bias, old[1])
    assert torch.isfinite(found(*context.inputs)).all()
