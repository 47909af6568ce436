"""Fully connected networks: LeNet-300-100 (LeCun et al. 1998) and the larger ones of the compression papers."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from tersenet.models.zoo import register_model

MNIST = (1, 28, 28)


class MLP(nn.Module):
    """Linear layers with ReLU between them, and dropout after each ReLU where `dropout` > 0.

    The layers are `fc1`, `fc2`, …; an input of any shape is flattened first.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [inputs, *hidden, classes]
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), start=1):
            layers[f"fc{number}"] = nn.Linear(fan_in, fan_out)
            if number < len(widths) - 1:
                layers[f"relu{number}"] = nn.ReLU()
                if dropout > 0:
                    layers[f"dropout{number}"] = nn.Dropout(dropout)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, …] → [B, classes]
        for layer in self.children():
            x = layer(x)
        return x


@register_model("lenet_300_100", input=MNIST)
def lenet_300_100(
    inputs: int = 784, hidden: Sequence[int] = (300, 100), classes: int = 10, dropout: float = 0.0
) -> MLP:
    """784 → 300 → 100 → 10, 266,610 parameters (LeCun et al. 1998; the small net of Han et al. 2015)."""
    return MLP(inputs, hidden, classes, dropout)


@register_model("mlp", input=MNIST)
def mlp(inputs: int = 784, hidden: Sequence[int] = (512,), classes: int = 10, dropout: float = 0.0) -> MLP:
    """A net of any widths."""
    return MLP(inputs, hidden, classes, dropout)


@register_model("mlp_3x512", input=MNIST)
def mlp_3x512(inputs: int = 784, classes: int = 10, dropout: float = 0.0) -> MLP:
    """784 → 512 → 512 → 512 → 10, 932,362 parameters."""
    return MLP(inputs, (512,) * 3, classes, dropout)


@register_model("mlp_2x1200", input=MNIST)
def mlp_2x1200(inputs: int = 784, classes: int = 10, dropout: float = 0.0) -> MLP:
    """784 → 1200 → 1200 → 10, 2,395,210 parameters: the teacher of Hinton, Vinyals and Dean (2015)."""
    return MLP(inputs, (1200,) * 2, classes, dropout)


@register_model("mlp_1x100", input=MNIST)
def mlp_1x100(inputs: int = 784, classes: int = 10, dropout: float = 0.0) -> MLP:
    """784 → 100 → 10, 79,510 parameters."""
    return MLP(inputs, (100,), classes, dropout)
