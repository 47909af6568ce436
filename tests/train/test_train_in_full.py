"""Depthwise convolutions under autocast against the same in float32, and everything else left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersenet.train.in_full import InFull

LAYERS = [
    nn.Conv1d(6, 6, 3, stride=2, groups=6),
    nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=6),
    nn.Conv3d(4, 4, 3, groups=4, bias=False),
]


def _input(layer: Any) -> torch.Tensor:
    return torch.randn(2, layer.in_channels, *(9,) * len(layer.kernel_size), requires_grad=True)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_values_and_gradients_are_those_of_float32(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = _input(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16), InFull():
        y = layer(x)
    exact = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact.to(torch.bfloat16))  # computed in full, rounded once
    upstream = torch.randn_like(exact).to(torch.bfloat16)
    found = torch.autograd.grad(y, [x, *layer.parameters()], upstream)
    wanted = torch.autograd.grad(exact, [x, *layer.parameters()], upstream.float())
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3, groups=3), nn.Linear(9, 4)], ids=["whole", "groups", "linear"]
)
def test_other_layers_are_left_to_autocast(layer: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = layer(x)
        with InFull():
            assert torch.equal(layer(x), wanted)
    exact: torch.Tensor = layer(x)
    assert not torch.equal(exact.to(torch.bfloat16), wanted)  # so the comparison above could have failed


def test_images_are_scaled_without_aliasing_and_back() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16), InFull():
        small = F.interpolate(x, (5, 5), mode="bilinear", antialias=True)
    exact = F.interpolate(x, (5, 5), mode="bilinear", antialias=True)
    assert torch.equal(small, exact.bfloat16())
    assert torch.equal(*(torch.autograd.grad(y.float().sum(), x)[0] for y in (small, exact)))


def test_without_autocast_nothing_changes_and_arguments_may_be_named() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3)
    with InFull():
        plain = F.conv2d(x.bfloat16(), weight.bfloat16(), groups=4)
    assert torch.equal(plain, F.conv2d(x.bfloat16(), weight.bfloat16(), groups=4))
    with torch.autocast("cpu", dtype=torch.bfloat16), InFull():
        named = F.conv2d(input=x, weight=weight, groups=4)
    assert torch.equal(named, F.conv2d(x, weight, groups=4).bfloat16())
