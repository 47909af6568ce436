"""The stage: what is redundant goes without a trace, readers are set against the original model, mistakes are told."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import tersenet.prune  # noqa: F401
from tersenet.core.errors import DataError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.graph import ChannelGraph, remove


def prune(model, context, **options):
    return parse_stage({"method": "prune.reconstruct", **options}).apply(model, context)


class Branches(nn.Module):
    """Channels read by a plain and by a grouped, strided, dilated convolution, and through a norm and a ReLU."""

    def __init__(self):
        super().__init__()
        self.make, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.plain, self.grouped = nn.Conv2d(16, 5, 1, bias=False), nn.Conv2d(16, 6, 3, 2, 1, dilation=2, groups=2)
        self.head = nn.Linear(5 + 6, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.make(x)))
        return self.head(torch.cat([self.plain(x).mean((2, 3)), self.grouped(x).mean((2, 3))], 1))


class Products(nn.Module):
    """x · W with the inputs in the first dimension, a bias added by the same operator, and a weight used twice."""

    def __init__(self):
        super().__init__()
        self.make = nn.Linear(6, 8)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 7)), nn.Parameter(torch.randn(7))
        self.twice, self.other = nn.Linear(8, 5), nn.Linear(6, 8)

    def forward(self, x):
        hidden = torch.relu(self.make(x))
        return torch.addmm(self.bias, hidden, self.weight), self.twice(hidden), self.twice(hidden.square())


def twins(weight, bias):
    """Of each pair of outputs the second becomes the first again."""
    with torch.no_grad():
        for tensor in (weight, bias):
            tensor[1::2] = tensor[::2]


def outputs(model, x):
    with torch.no_grad():
        found = model.eval()(x)
    return torch.cat([part.flatten() for part in (found if isinstance(found, tuple) else (found,))])


@pytest.mark.parametrize("kind", [Branches, Products])
def test_half_of_doubled_channels_go_and_the_outputs_stay(toy_context, kind):
    torch.manual_seed(0)
    model = kind()
    x = torch.randn(64, 3, 10, 10) if kind is Branches else torch.randn(64, 6)
    twins(model.make.weight, model.make.bias)
    before = outputs(model, x)
    half = len(model.make.weight) // 2
    context = toy_context((x,), torch.zeros(64, 1))
    prune(model, context, ratio={group(model): 0.5}, selection="surgeon")
    assert len(model.make.weight) == half
    assert float((outputs(model, x) - before).abs().max() / before.abs().max()) < 1e-4
    assert context.notes == []


def group(model):
    """Of the channels that `make` makes; where a grouped convolution reads them, the eight of each part."""
    made = [g for g in ChannelGraph(model, example(model)) if any(m.tensor == "make.weight" for m in g.by_role("out"))]
    return next(g.name for g in made if g.units == 8)


def example(model):
    return torch.randn(32, 3, 10, 10) if isinstance(model, Branches) else torch.randn(32, 6)


@pytest.mark.parametrize("selection", ["lasso", "thinet", "surgeon"])
def test_linear_combinations_go_too(toy_context, selection):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 12, 3), nn.Conv1d(12, 5, 3, padding=1, bias=False))
    with torch.no_grad():
        mix = torch.randn(6, 6) / 3
        model[0].weight[6:] = torch.einsum("ij,jck->ick", mix, model[0].weight[:6])
        model[0].bias[6:] = mix @ model[0].bias[:6]
    x = torch.randn(64, 4, 20)
    before = outputs(model, x)
    prune(model, toy_context((x,), torch.zeros(64, 1)), keep=6, selection=selection, ridge=1e-11)
    assert model[1].weight.shape == (5, 6, 3)
    assert float((outputs(model, x) - before).abs().max() / before.abs().max()) < 1e-4


def test_later_layers_see_what_is_left_and_aim_at_what_was(toy_context):
    """The last layer of three is numpy's least squares from the pruned model's activations to the original outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))
    x = torch.randn(512, 6)
    before = outputs(model, x).reshape(512, 4)
    prune(model, toy_context((x,), torch.zeros(512, 1)), ratio=0.5, batches=16, batch_size=32)
    assert [len(model[i].weight) for i in (0, 2, 4)] == [6, 6, 4]
    with torch.no_grad():
        read = model[:4](x).double().numpy()
    expected, *_ = np.linalg.lstsq(np.column_stack([read, np.ones(512)]), before.double().numpy())
    np.testing.assert_allclose(model[4].weight.detach().numpy(), expected[:-1].T, atol=2e-4)
    np.testing.assert_allclose(model[4].bias.detach().numpy(), expected[-1], atol=2e-4)


class Skipping(nn.Module):
    """`last` reads what `make` gives, and what `first` makes of that."""

    def __init__(self):
        super().__init__()
        self.make, self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8 + 4, 5)

    def forward(self, x):
        x = torch.relu(self.make(x))
        return self.last(torch.cat([x, torch.relu(self.first(x))], 1))


@pytest.mark.parametrize("selection", ["lasso", "thinet", "surgeon"])
def test_all_readers_decide_and_each_reads_what_those_before_it_became(toy_context, selection):
    torch.manual_seed(0)
    model = Skipping()
    with torch.no_grad():
        model.first.weight[:, :4] = 0  # `last` reads channels 0 to 3, and with larger weights than `first` the others
        model.last.weight[:, 4:8] = 0
        model.last.weight[:, :4] *= 20
    kept = model.make.weight[:4].clone()
    x = torch.randn(512, 6)
    before = outputs(model, x).reshape(512, 5)
    prune(model, toy_context((x,), torch.zeros(512, 1)), keep={"make": 4}, selection=selection, ridge=1e-12)
    assert torch.equal(model.make.weight, kept)
    with torch.no_grad():
        hidden = torch.relu(model.make(x))
        read = torch.cat([hidden, torch.relu(model.first(hidden))], 1).double().numpy()
    expected, *_ = np.linalg.lstsq(np.column_stack([read, np.ones(512)]), before.double().numpy())
    np.testing.assert_allclose(
        model.last(torch.tensor(read).float()).detach(), read @ expected[:-1] + expected[-1], atol=1e-3
    )


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(8):
        for at in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[:1200][at]), y[:1200][at]).backward()
            optimizer.step()
    return model.eval(), (x[:1200], y[:1200]), (x[1200:], y[1200:])


def by_magnitude(model, x, keep):
    """The filters with the smallest L1 norm go, and nothing makes up for them (Li et al. 2017)."""
    model = copy.deepcopy(model)
    norms = {name: model.get_submodule(name).weight.detach().abs().flatten(1).sum(1) for name in keep}
    gone = {name: norm.argsort()[: len(norm) - keep[name]].tolist() for name, norm in norms.items()}
    remove(model, ChannelGraph(model, x[:32]), gone)
    return model


@pytest.mark.parametrize("selection", ["lasso", "thinet", "surgeon"])
def test_trained_net_loses_less_than_by_magnitude_and_than_without_reconstruction(toy_context, digits, selection):
    model, (x, _), (x_test, y_test) = digits
    keep = {"0": 6, "4": 10}

    def pruned(**options):
        return prune(copy.deepcopy(model), toy_context((x,), x), keep=keep, selection=selection, **options)

    def error(other):
        return float((outputs(other, x_test) - outputs(model, x_test)).norm() / outputs(model, x_test).norm())

    def accuracy(other):
        return float((outputs(other, x_test).reshape(-1, 10).argmax(1) == y_test).float().mean())

    with_, without, magnitude = pruned(), pruned(reconstruct=False), by_magnitude(model, x, keep)
    assert error(with_) < 0.8 * error(without) and error(with_) < 0.8 * error(magnitude)
    assert accuracy(with_) > accuracy(without) and accuracy(with_) > accuracy(magnitude)


def test_samples_are_drawn_once_and_modes_stay(toy_context):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    model[1].eval()
    x = torch.randn(64, 1, 9, 9)
    results = [
        prune(copy.deepcopy(model), toy_context((x,), torch.zeros(64, 1)), ratio=0.5, samples=100) for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in results), strict=True))
    assert results[0].training and not results[0][1].training
    assert torch.equal(results[0][1].num_batches_tracked, model[1].num_batches_tracked)


def test_groups_that_cannot_be_are_noted_or_an_error(toy_context):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.make, self.q, self.k, self.up = (nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            x = torch.relu(self.make(x))
            scores = (self.q(x) @ self.k(x).mT).softmax(-1)
            return self.up(scores @ x)

    context = toy_context((torch.randn(32, 5, 6),), torch.zeros(32, 1))
    model = prune(Attention(), context, ratio=0.5)
    assert model.make.weight.shape == (3, 6) and model.q.weight.shape == (6, 3)
    assert "'q' is left as it is: no linear layer or convolution reads it" in context.notes
    with pytest.raises(RecipeError, match="no channel of 'q' can go: no linear layer or convolution reads it"):
        prune(Attention(), context, ratio={"q": 0.5})


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def test_targets_and_ignore_choose_the_layers_whose_outputs_go(toy_context):
    context = toy_context((torch.randn(32, 6),), torch.zeros(32, 1))
    assert [len(prune(net(), context, ratio=0.5, targets=["2"])[i].weight) for i in (0, 2)] == [8, 4]
    assert [len(prune(net(), context, ratio=0.5, ignore=["2"])[i].weight) for i in (0, 2)] == [4, 8]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ratio": 1}, "ratio: must be a number greater than 0 and less than 1, not 1"),
        ({"ratio": {"0": 0}}, "for '0' it must be a number greater than 0 and less than 1, not 0"),
        ({"keep": 0.5}, "keep: must be a whole number"),
        ({}, "needs either 'ratio'"),
        ({"ratio": 0.5, "keep": 3}, "needs either 'ratio'"),
        ({"ratio": {"layer9": 0.5}}, "'layer9' makes no group of channels"),
        ({"ratio": {"0": 0.5, "*": 0.4}}, "'0' is given 0.5 by '0' and 0.4 by '\\*', but these channels can only go"),
        ({"keep": {"0": 8}}, "no channel of '0' can go: it has 8 channels, and 8 are to stay"),
        ({"ratio": {"4": 0.5}}, "no channel of '4' can go: it is an output of the model"),
    ],
)
def test_mistakes_are_told_in_one_sentence(toy_context, options, sentence):
    with pytest.raises(RecipeError, match=sentence):
        prune(net(), toy_context((torch.randn(8, 6),), torch.zeros(8, 1)), **options)


def test_no_data_is_an_error(toy_context):
    with pytest.raises(DataError, match="looks at batches of the train data, and there are none"):
        prune(net(), toy_context((torch.zeros(0, 6),), torch.zeros(0, 1)), ratio=0.5)
