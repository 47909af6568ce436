"""Activations of filters: a worked example, every batch counted, and layers that call functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.forms import match
from tersenet.prune import CRITERIA, Evidence, Scoring, Statistics

FIRST = torch.tensor(
    [
        [[0, 0.1, 0.5, 1], [1.2, 0.6, 0.3, 0.2], [0, 0.5, 0, 0.3], [0.2, 0, 0, 0.8]],
        [[0.1, 0.5, 0, 0], [0.2, 0.3, 0, 1], [0.1, 0, 0, 0.5], [0.1, 0.6, 0.7, 0.1]],
        [[0, 0, 0.8, 0], [0.7, 0, 0.6, 0.1], [1.2, 1, 0, 0.2], [0.5, 0, 0.3, 0.5]],
    ]
)
"""Three channels of the first image: 5, 5 and 6 zeros."""


def second():
    """The second image: 6, 7 and 8 zeros."""
    image = torch.full((3, 16), 0.4)
    for channel, zeros in enumerate((6, 7, 8)):
        image[channel, :zeros] = 0
    return image.view(3, 4, 4)


def evidence(model, context, place=0, **options):
    targets = match(model)
    return Evidence(targets[place], Statistics(model, targets, context, Scoring(**options)))


def score(name, model, context, place=0, **options):
    found = evidence(model, context, place, **options)
    return CRITERIA[name](found.target.module.weight.detach(), torch.Generator(), found)


def identity():
    layer = nn.Conv2d(3, 3, 1, bias=False)
    layer.weight.data = torch.eye(3).view(3, 3, 1, 1)
    return layer


@pytest.mark.parametrize("batch_size", [1, 2])
def test_average_percentage_of_zeros_of_the_worked_example(toy_context, batch_size):
    """11/32, 12/32 and 14/32; the last batch alone would give 6/16, 7/16 and 8/16. Where activations are zero, what
    comes before ReLU is negative."""
    images = torch.stack([FIRST, second()])
    context = toy_context((torch.where(images == 0, -1.0, images),), torch.zeros(2))
    model = nn.Sequential(identity(), nn.ReLU())
    assert evidence(model, context, batch_size=batch_size).zeros.tolist() == [11 / 32, 12 / 32, 14 / 32]
    assert score("apoz", model, context, batch_size=batch_size).tolist() == [21 / 32, 20 / 32, 18 / 32]
    means = images.mean(dim=(0, 2, 3)).tolist()
    assert score("mean_activation", model, context, batch_size=batch_size).tolist() == pytest.approx(means)
    assert context.notes == []


class Functional(nn.Module):
    """A residual block that calls functions: what conv2 gives is activated after the sum, conv1 after its norm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)
        for norm in (self.norm1, self.norm2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x):
        return self.fc(self.maps(x)[1].mean((2, 3)))

    def maps(self, x):
        inner = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return inner, torch.relu(self.norm2(self.conv2(inner)) + x)


def test_activations_are_found_through_functions_norms_and_sums(toy_context):
    torch.manual_seed(0)
    model, x = Functional().eval(), torch.randn(6, 3, 4, 4)
    context = toy_context((x,), torch.zeros(6, 2))
    with torch.no_grad():
        maps = model.maps(x)
    for place, expected in enumerate(maps):
        zeros = (expected == 0).double().mean((0, 2, 3))
        torch.testing.assert_close(evidence(model, context, place, batch_size=4).zeros, zeros)
        gamma = (model.norm1, model.norm2)[place].weight.detach().abs()
        assert torch.equal(score("bn_scale", model, context, place), gamma)
    outputs = model(x).detach().abs().mean(0).double()
    torch.testing.assert_close(score("mean_activation", model, context, 2), outputs, rtol=1e-5, atol=1e-6)
    assert context.notes[0].startswith("fc.weight: no activation function follows its layer")


def test_pre_activation_counts_the_first_activation_only(toy_context):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = identity()

        def forward(self, x):
            y = self.conv(x)
            z = torch.relu(y) + y
            return torch.sigmoid(z)

    x = torch.randn(4, 3, 2, 2)
    zeros = evidence(Twice(), toy_context((x,), torch.zeros(4, 3, 2, 2))).zeros
    torch.testing.assert_close(zeros, (x <= 0).double().mean((0, 2, 3)))


def test_a_layer_used_twice_is_counted_twice(toy_context):
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = -torch.eye(2)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU())
    x = torch.tensor([[1.0, -1.0]])  # → [0, 1] → [0, 0]
    assert evidence(model, toy_context((x,), torch.zeros(1, 2))).zeros.tolist() == [1.0, 0.5]


def test_gamma_of_a_batch_norm_is_its_own_scale():
    norm = nn.BatchNorm1d(3)
    norm.weight.data = torch.tensor([0.5, -2.0, 0.0])
    assert CRITERIA["bn_scale"](norm.weight.detach(), None).tolist() == [0.5, 2.0, 0.0]


def test_what_cannot_be_measured_is_told(toy_context):
    context = toy_context((torch.randn(4, 3, 5),), torch.randn(4, 3, 2))

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.fc = nn.GRU(5, 2, batch_first=True), nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(self.cell(x)[0])

    with pytest.raises(RecipeError, match=r"one output tensor, which cell.weight_ih_l0 \(GRU\) has not"):
        evidence(Recurrent(), context).zeros  # noqa: B018
    with pytest.raises(RecipeError, match=r"no batch norm with a scale after fc\.weight"):
        evidence(Recurrent(), context, place=2).gamma  # noqa: B018
