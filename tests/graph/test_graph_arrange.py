"""Channels in another order: outputs stay, patterns that are alike come together, and what depends on order is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tersenet.graph.arrange import arrange, by_likeness
from tersenet.graph.channels import ChannelGraph
from tersenet.graph.slices import tensors_of


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.last = nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.last(torch.nn.functional.max_pool2d(x, 2).flatten(1))


class Summed(nn.Module):
    """Each channel has all that come before it in it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).cumsum(1))


def orders(groups, seed=0):
    generator = np.random.default_rng(seed)
    return {group: generator.permutation(group.units) for group in groups}


@pytest.mark.parametrize("seed", range(3))
def test_outputs_stay_and_every_weight_moves_with_its_channel(seed):
    torch.manual_seed(seed)
    model, x = Residual().eval(), torch.randn(4, 3, 8, 8)
    model.norm.running_mean.normal_()
    before, first = model(x), model.inner.weight.detach().clone()
    graph = ChannelGraph(model, x)
    chosen = orders([group for group in graph if group.prunable], seed)
    done = arrange(model, graph, chosen)
    assert {group.name for group in done} == {group.name for group in chosen} and len(done) == 2
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    inner, outer = (next(o for g, o in chosen.items() if g.units == units) for units in (12, 8))
    assert torch.equal(model.inner.weight, first[inner][:, outer]) and not torch.equal(model.inner.weight, first)


def test_where_order_matters_nothing_moves():
    torch.manual_seed(0)
    model, x = Summed().eval(), torch.randn(4, 6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = ChannelGraph(model, x)
    chosen = orders([group for group in graph if group.name == "first"])  # which the graph would not have offered
    assert len(chosen) == 1 and arrange(model, graph, chosen) == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_each_is_followed_by_the_one_most_like_it():
    """Four kinds of rows in turn: each kind ends up in one piece, the fullest first; ties by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2))
    kinds = torch.tensor([[1] * 6 + [0] * 6, [0] * 6 + [1] * 3 + [0] * 3, [0] * 9 + [1] * 3, [1, 0] * 2 + [0] * 8])
    with torch.no_grad():
        model[0].weight.copy_(kinds.repeat(4, 1) * torch.randn(16, 12))
    graph = ChannelGraph(model, torch.randn(2, 12))
    (group,) = (group for group in graph if group.prunable)
    order = by_likeness(group, tensors_of(model))
    assert sorted(order) == list(range(16)) and list(order % 4) == [0] * 4 + [3] * 4 + [1] * 4 + [2] * 4
