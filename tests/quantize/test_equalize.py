"""Cross-layer equalization against its closed form, and the function of every model unchanged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tersenet.quantize.equalize
import tersenet.quantize.uniform  # noqa: F401
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, attach, form_of, match, weight_of


def stage(**options):
    return parse_stage({"method": "quantize.equalize", **options})


def rough(model, seed=0):
    """Weights whose rows and columns differ a lot."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            for dim in range(2):
                shape = [-1 if place == dim else 1 for place in range(parameter.ndim)]
                parameter.data *= torch.randn(parameter.shape[dim], generator=generator).exp().reshape(shape)
            parameter.data /= parameter.data.square().sum().sqrt()
    return model.eval()


def run(model, x, toy_context, **options):
    """(the model before, the context after)"""
    with torch.no_grad():
        context = toy_context((x,), torch.zeros(len(x)))
        before = copy.deepcopy(model)
        stage(**options).apply(model, context)
        torch.testing.assert_close(model(x), before(x), rtol=1e-4, atol=1e-5)
    return before, context


def rows(weight):
    return weight.detach().abs().flatten(1).amax(1)


def columns(weight):
    return rows(weight.transpose(0, 1))


def test_two_layers_in_closed_form(toy_context):
    """s_i = √(r₁ᵢ r₂ᵢ) / r₂ᵢ; both ranges become √(r₁ᵢ r₂ᵢ) (eq. 10 and 11)."""
    model = rough(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    before, context = run(model, torch.randn(20, 5), toy_context)
    first, second = rows(before[0].weight), columns(before[2].weight)
    scale = (first * second).sqrt() / second
    torch.testing.assert_close(rows(model[0].weight), (first * second).sqrt())
    torch.testing.assert_close(columns(model[2].weight), (first * second).sqrt())
    torch.testing.assert_close(model[0].weight, before[0].weight / scale[:, None])
    torch.testing.assert_close(model[0].bias, before[0].bias / scale)
    torch.testing.assert_close(model[2].weight, before[2].weight * scale)
    assert torch.equal(model[2].bias, before[2].bias) and context.notes == []


def test_every_joint_of_a_chain_is_equal_in_the_end(toy_context):
    model = rough(nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(6, 6), nn.LeakyReLU())), nn.Linear(6, 2)))
    run(model, torch.randn(20, 6), toy_context)
    for place in (0, 2, 4, 6):
        torch.testing.assert_close(rows(model[place].weight), columns(model[place + 2].weight), rtol=1e-3, atol=0)


class Pooled(nn.Module):
    """Convolutions, one with a filter for each channel, pooling, PReLU, and a linear layer over places of channels."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.Conv2d(4, 5, 1)
        self.slopes, self.pool, self.drop = nn.PReLU(5), nn.MaxPool2d(2), nn.Dropout()
        self.last = nn.Linear(5 * 9, 3)

    def forward(self, x):
        x = torch.relu(self.two(torch.relu(self.one(x))))
        x = nn.functional.avg_pool2d(self.pool(self.slopes(self.three(x))), 1)
        return self.last(self.drop(x).flatten(1))


def test_convolutions_pooling_and_places(toy_context):
    model = rough(Pooled())
    before, context = run(model, torch.rand(10, 2, 8, 8), toy_context)
    assert context.notes == []
    torch.testing.assert_close(rows(model.one.weight), rows(model.two.weight), rtol=1e-3, atol=0)
    torch.testing.assert_close(rows(model.two.weight), columns(model.three.weight), rtol=1e-3, atol=0)
    places = model.last.weight.detach().abs().reshape(3, 5, 9).amax((0, 2))
    torch.testing.assert_close(rows(model.three.weight), places, rtol=1e-3, atol=0)
    assert torch.equal(model.slopes.weight, before.slopes.weight)


def test_a_channel_that_two_layers_read(toy_context):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return self.left(x) + self.right(x)

    model = rough(Fork())
    run(model, torch.randn(10, 4), toy_context)
    read = torch.maximum(columns(model.left.weight), columns(model.right.weight))
    torch.testing.assert_close(rows(model.stem.weight), read)


BETWEEN = {
    "batch_norm": nn.BatchNorm1d(6),
    "relu6": nn.ReLU6(),
    "gelu": nn.GELU(),
    "tanh": nn.Tanh(),
    "layer_norm": nn.LayerNorm(6),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_lets_no_scale_through_is_noted(toy_context, name):
    model = rough(nn.Sequential(nn.Linear(4, 6), BETWEEN[name], nn.ReLU(), nn.Linear(6, 3)))
    before, context = run(model, torch.randn(10, 4), toy_context, fold=False)
    assert all(torch.equal(own, other) for own, other in zip(model.parameters(), before.parameters(), strict=True))
    assert (
        f"the channels of 0.weight are left as they are: {name if name != 'relu6' else 'hardtanh'}" in context.notes[0]
    )
    assert "nothing is equalized" in context.notes[1]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(x + self.two(torch.relu(self.one(x)))))


def test_sums_are_left_alone(toy_context):
    model = rough(Residual())
    _, context = run(model, torch.randn(10, 6), toy_context)
    torch.testing.assert_close(rows(model.one.weight), columns(model.two.weight))
    assert context.notes == [
        "the channels of two.weight are left as they are: add, which reads them, is not positively homogeneous"
    ]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)

    def forward(self, x):
        return self.two(torch.relu(self.one(torch.relu(self.one(x)))))


def test_layers_used_twice_are_left_alone(toy_context):
    _, context = run(rough(Twice()), torch.randn(10, 6), toy_context)
    assert "the layer is used in several places" in context.notes[0]


def test_pruned_weights_stay_zero_and_dead_channels_as_they_are(toy_context):
    model = rough(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    masks = [torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) > 0.4 for target in match(model)]
    masks[0][2] = False
    masks[1][:, 4] = False
    for target, mask in zip(match(model), masks, strict=True):
        attach(target, Masked(mask))
    before, context = run(model, torch.randn(20, 5), toy_context)
    made, read = (weight_of(target) for target in match(model))
    live = torch.tensor([0, 1, 3, 5, 6])
    torch.testing.assert_close(rows(made)[live], columns(read)[live])
    torch.testing.assert_close(made[4], weight_of(match(before)[0])[4])
    assert all(not bool(weight_of(t)[~mask].any()) for t, mask in zip(match(model), masks, strict=True))
    assert all(isinstance(form_of(target), Masked) for target in match(model)) and context.notes == []


def test_quantized_weights_keep_their_values(toy_context):
    model = rough(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)))
    x = torch.randn(20, 5)
    parse_stage({"method": "quantize.uniform", "bits": 4, "targets": ["4"]}).apply(model, toy_context((x,), x))
    former = weight_of(match(model)[2]).clone()
    _, context = run(model, x, toy_context)
    assert torch.equal(weight_of(match(model)[2]), former)
    torch.testing.assert_close(rows(model[0].weight), columns(model[2].weight))
    assert context.notes == [
        "the channels of 2.weight are left as they are: 4.weight is uniform already, and scales would change its values"
    ]


def test_only_targets_are_touched(toy_context):
    model = rough(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)))
    before, _ = run(model, torch.randn(20, 5), toy_context, targets=["0", "2"])
    assert torch.equal(model[4].weight, before[4].weight)
    torch.testing.assert_close(rows(model[0].weight), columns(model[2].weight))


def test_what_the_graph_does_not_see_is_undone(toy_context):
    class Odd(nn.Module):
        """Its weights count beside its layers, but not when it is exported."""

        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            y = self.two(torch.relu(self.one(x)))
            return y if torch.compiler.is_exporting() else y * self.one.weight.abs().sum()

    model = rough(Odd())
    before, context = run(model, torch.randn(10, 4), toy_context)
    assert torch.equal(model.one.weight, before.one.weight) and torch.equal(model.two.weight, before.two.weight)
    assert "with scales the model's output would differ" in context.notes[0]


def test_one_grid_for_a_weight_gains_most(toy_context):
    """Scales of channels that the functions let through, which trained networks have, are taken back."""
    errors, x = [], torch.rand(40, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for equalize in (False, True):
        torch.manual_seed(0)
        model, context = Pooled().eval(), toy_context((x,), torch.zeros(40, 3))
        for layer, reader in ((model.one, model.two), (model.two, model.three)):
            scale = torch.randn(4, generator=torch.Generator().manual_seed(1)).mul(2).exp()[:, None, None, None]
            layer.weight.data, layer.bias.data = layer.weight * scale, layer.bias * scale.flatten()
            reader.weight.data = reader.weight / (scale if reader is model.two else scale.transpose(0, 1))
        dense = copy.deepcopy(model)
        if equalize:
            stage().apply(model, context)
        parse_stage({"method": "quantize.uniform", "bits": 6, "per": "tensor"}).apply(model, context)
        with torch.no_grad():
            errors.append(float((model(x) - dense(x)).square().mean()))
    assert errors[1] < 0.1 * errors[0]


def test_mistakes_are_told(toy_context):
    with pytest.raises(
        DataError, match=r"quantize.equalize: runs the model on a batch of the train data, and there are"
    ):
        stage().apply(nn.Sequential(nn.Linear(4, 3)), toy_context((torch.randn(0, 4),), torch.randn(0, 3)))
    with pytest.raises(RecipeError, match=r"0.bias is a vector"):
        stage(targets=["0.bias"]).check(nn.Sequential(nn.Linear(4, 3)))
