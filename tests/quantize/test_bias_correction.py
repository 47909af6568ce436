"""Bias correction: the mean error of every output is zero, layer after layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tersenet.quantize.uniform  # noqa: F401
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, attach, match, weight_of, weights


def stage(**options):
    return parse_stage({"method": "quantize.uniform", "bias_correction": True, **options})


def plain(**options):
    return parse_stage({"method": "quantize.uniform", **options})


def build(bias=True):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=bias),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    torch.nn.init.uniform_(model[1].running_mean, -1, 1)
    torch.nn.init.uniform_(model[1].running_var, 0.5, 2)
    return model.eval()


@pytest.fixture
def data():
    return torch.rand(150, 2, 4, 4, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.fixture
def context(toy_context, data):
    return toy_context((data,), torch.zeros(len(data), 5))


def given(model, x):
    """Mean output of every layer: {place: [channels]}."""
    found = {}
    with torch.no_grad():
        for place, layer in enumerate(model):
            x = layer(x)
            found[place] = x.transpose(0, 1).flatten(1).mean(1)
    return found


@pytest.mark.parametrize("options", [{}, {"rounding": "adaptive", "adaptive": {"steps": 50}}])
def test_the_mean_output_of_every_layer_is_that_of_the_dense_model(context, data, options):
    model, dense = build(), build()
    stage(bits=3, batch_size=40, **options).apply(model, context)  # batches of different sizes
    for place in (0, 3, 6):
        torch.testing.assert_close(given(model, data)[place], given(dense, data)[place], atol=1e-5, rtol=0)
    uncorrected = build()
    plain(bits=3).apply(uncorrected, context)
    assert float((given(uncorrected, data)[6] - given(dense, data)[6]).abs().max()) > 0.01


def test_one_linear_layer_in_closed_form(toy_context):
    """b' = b − (Ŵ − W)·E[x] (§4.2, eq. 17)."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 4)), torch.rand(64, 8)
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    stage(bits=2).apply(model, toy_context((x,), torch.zeros(64, 4)))
    expected = bias - (weight_of(match(model)[0]) - weight) @ x.mean(0)
    torch.testing.assert_close(model[0].bias.detach(), expected)


def test_without_a_bias_the_running_mean_takes_it(context, data):
    model, dense = build(bias=False), build(bias=False)
    stage(bits=3, targets=["0"]).apply(model, context)
    assert not torch.equal(model[1].running_mean, dense[1].running_mean)
    torch.testing.assert_close(given(model, data)[1], given(dense, data)[1], atol=1e-5, rtol=0)
    assert context.notes == []


def test_what_cannot_be_corrected_is_noted(toy_context):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model.append(nn.Linear(4, 4))
    model[4].bias = model[5].bias
    attach(next(target for target in weights(model) if target.name == "2.bias"), Masked(torch.zeros(4) > 0))
    stage(bits=4).apply(model, context := toy_context((torch.rand(20, 4),), torch.zeros(20, 4)))
    assert context.notes == [
        "the bias of 0.weight's layer is not corrected: it has none, and no batch norm follows that could take it",
        "the bias of 2.weight's layer is not corrected: it is compressed itself",
        "the bias of 4.weight's layer is not corrected: other layers share it",
        "the bias of 5.weight's layer is not corrected: other layers share it",
    ]
    assert not bool(model[2].bias.any())


def test_a_norm_after_two_layers_is_not_shifted(toy_context):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(self.one(x)) + self.norm(self.two(x))

    torch.manual_seed(0)
    model = Model()
    stage(bits=3).apply(model, context := toy_context((torch.rand(20, 4),), torch.zeros(20, 3)))
    assert len(context.notes) == 2 and not bool(model.norm.running_mean.any())


def test_a_weight_that_two_layers_share_gives_each_its_own_bias(toy_context):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(torch.relu(self.one(x)))

    torch.manual_seed(0)
    dense, x = Model(), torch.rand(60, 5)
    torch.manual_seed(0)
    model = Model()
    stage(bits=3).apply(model, toy_context((x,), torch.zeros(60, 5)))
    with torch.no_grad():
        torch.testing.assert_close(model.one(x).mean(0), dense.one(x).mean(0))
        torch.testing.assert_close(model(x).mean(0), dense(x).mean(0))


def test_options_that_do_not_go_together_are_told():
    with pytest.raises(RecipeError, match="'batch_size' is for calibration; ask for rounding 'adaptive', 'bias_corr"):
        plain(batch_size=3)


def test_no_data_is_told(toy_context):
    with pytest.raises(DataError, match=r"quantize.uniform: calibrates on batches of the validation data, and there"):
        stage(split="validation").apply(build(), toy_context((torch.randn(0, 2, 4, 4),), torch.randn(0, 5)))


def test_data_that_are_not_finite_spoil_no_bias(toy_context):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.rand(20, 4)
    x[3, 2] = torch.nan
    bias = model[0].bias.detach().clone()
    stage(bits=3, rounding="adaptive").apply(model, context := toy_context((x,), torch.zeros(20, 3)))
    assert torch.equal(model[0].bias, bias) and len(context.notes) == 2
    assert "not corrected: it gives NaN or infinity" in context.notes[1]
