"""Costs that are computed from sizes, against counting on the model after a real removal."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersenet.core.recipe import ModelSpec
from tersenet.graph import ChannelGraph, remove, try_out
from tersenet.graph.cost import macs, parameters
from tersenet.measure.macs import count_macs
from tersenet.models import build, input_shape


class Attention(nn.Module):
    """Heads, a matrix product written out, a transposed and a grouped convolution, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(6, 8, 2, stride=2)
        self.mix = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.q, self.k, self.v = (nn.Linear(8, 12) for _ in range(3))
        self.side = nn.Linear(8, 3)
        self.inner = nn.Linear(15, 10)
        self.out = nn.Linear(10, 6, bias=False)
        self.back = nn.Linear(6, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 6, L]
        x = self.mix(torch.relu(self.up(x))).transpose(1, 2)  # [B, 2L, 8]
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))  # [B, 3, 2L, 4]
        y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        y = y + nn.functional.scaled_dot_product_attention(q, k, v)
        y = self.inner(torch.cat([self.side(x), y.transpose(1, 2).flatten(2)], -1))
        return self.out(torch.addmm(y.new_zeros(10), torch.relu(self.back(self.out(y[:, 0]))), torch.eye(10)))


def _model(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if name == "attention":
        return Attention(), torch.randn(2, 6, 5)
    return build(ModelSpec(name=name), 0), torch.randn(2, *input_shape(name))


@pytest.mark.parametrize("name", ["attention", "lenet5", "resnet20", "vgg11_bn", "vit_cifar"])
def test_predicted_costs_are_those_of_the_smaller_model(name: str) -> None:
    model, inputs = _model(name)
    graph = ChannelGraph(model, inputs)
    assert macs(graph, {}) == count_macs(model, inputs).total
    try_out(model, graph)
    gone = {group: max(group.units // 3, 1) for group in graph if group.prunable}
    assert gone
    predicted = macs(graph, gone), parameters(graph, model, gone)
    done = remove(model, graph, {group.name: range(count) for group, count in gone.items()})
    assert not done.refused
    assert predicted == (count_macs(model, inputs).total, sum(p.numel() for p in model.parameters()))
