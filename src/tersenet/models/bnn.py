"""Fully connected networks with batch norm, as those for binary weights are built, and binary activations."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tersenet.models.mlp import MNIST
from tersenet.models.zoo import register_model


class _Sign(torch.autograd.Function):
    """+1 where x ≥ 0, else −1; the gradient is that of the hard tanh, clip(x, −1, 1): it passes where |x| ≤ 1."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        passed: torch.Tensor = gradients[0] * (x.abs() <= 1).to(gradients[0].dtype)
        return passed


class Sign(nn.Module):
    """Binary activations: ±1, trained straight through a hard tanh (Hubara et al. 2016, arXiv 1602.02830, eq. 4).

    Takes the place of ReLU in a model of one's own; a norm should come before it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _Sign.apply(x)  # type: ignore[no-untyped-call]
        return y


class NormedMLP(nn.Module):
    """Linear layers without biases, each with batch norm after it, and `activation` after all norms but the last.

    The layers are `fc1`, `norm1`, `act1`, `fc2`, …; an input of any shape is flattened first. The last layer's output
    is left real.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], classes: int, activation: type[nn.Module], dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, classes]
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), start=1):
            layers[f"fc{number}"] = nn.Linear(fan_in, fan_out, bias=False)
            layers[f"norm{number}"] = nn.BatchNorm1d(fan_out)
            if number < len(widths) - 1:
                layers[f"act{number}"] = activation()
                if dropout > 0:
                    layers[f"dropout{number}"] = nn.Dropout(dropout)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, …] → [B, classes]
        for layer in self.children():
            x = layer(x)
        return x


@register_model("mlp_bn", input=MNIST)
def mlp_bn(
    inputs: int = 784, hidden: Sequence[int] = (1024, 1024, 1024), classes: int = 10, dropout: float = 0.0
) -> NormedMLP:
    """784 → 1024 → 1024 → 1024 → 10 with batch norm and ReLU: the net of Courbariaux et al. 2015, arXiv 1511.00363,
    §3.1, there with hinge loss."""
    return NormedMLP(inputs, hidden, classes, nn.ReLU, dropout)


@register_model("bnn", input=MNIST)
def bnn(
    inputs: int = 784, hidden: Sequence[int] = (4096, 4096, 4096), classes: int = 10, dropout: float = 0.0
) -> NormedMLP:
    """784 → 4096 → 4096 → 4096 → 10 with batch norm and activations ±1 (Hubara et al. 2016, arXiv 1602.02830, §2.1,
    there with hinge loss). Its weights are real until stage `quantize.binary` makes them ±1."""
    return NormedMLP(inputs, hidden, classes, Sign, dropout)
