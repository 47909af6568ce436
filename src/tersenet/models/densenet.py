"""Densely connected networks (Huang et al. 2017): each layer sees what all layers before it in its block gave.

Parameters carry the names that published checkpoints use (`features.denseblock1.denselayer1.norm1`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.initial import he_normal
from tersenet.models.zoo import register_model


class DenseLayer(nn.Module):
    """[x, new(x)]: `growth` new channels from batch norm, ReLU and a 3×3 convolution (§3, composite function)."""

    def __init__(self, fan_in: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(fan_in), nn.Conv2d(fan_in, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, fan_in + growth, H, W]
        new = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.dropout(new)], 1)


class BottleneckLayer(nn.Module):
    """[x, new(x)]: a 1×1 convolution to 4 · `growth` channels comes before the 3×3 one (§3, DenseNet-B)."""

    def __init__(self, fan_in: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(fan_in), nn.Conv2d(fan_in, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, fan_in + growth, H, W]
        new = self.dropout(self.conv1(F.relu(self.norm1(x))))  # [B, 4 · growth, H, W]
        new = self.conv2(F.relu(self.norm2(new)))  # [B, growth, H, W]
        return torch.cat([x, self.dropout(new)], 1)


class DenseNet(nn.Module):
    """`stem`, dense blocks with transitions between them, batch norm, the mean over all positions, one linear layer.

    stem: layers by name that give `fan_in` channels. layer: of which class the blocks are made, and `growth` its new
    channels. compression: share of the channels that a transition lets through (θ in §3).
    """

    def __init__(
        self,
        stem: dict[str, nn.Module],
        fan_in: int,
        blocks: Sequence[int],
        layer: type[DenseLayer | BottleneckLayer],
        growth: int,
        compression: float,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(OrderedDict(stem))
        for number, count in enumerate(blocks, start=1):
            layers = [layer(fan_in + index * growth, growth, dropout) for index in range(count)]
            names = [f"denselayer{index}" for index in range(1, count + 1)]
            self.features.add_module(f"denseblock{number}", nn.Sequential(OrderedDict(zip(names, layers, strict=True))))
            fan_in += count * growth
            if number < len(blocks):
                width = int(fan_in * compression)
                self.features.add_module(f"transition{number}", _transition(fan_in, width, dropout))
                fan_in = width
        self.features.add_module(f"norm{len(blocks) + 1}", nn.BatchNorm2d(fan_in))
        self.classifier = nn.Linear(fan_in, classes)
        he_normal(self, "fan_in")  # layers with many inputs and few outputs: by outputs, activations would explode
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # densenet121: [B, 3, 224, 224], densenet40: [B, 3, 32, 32]
        x = F.relu(self.features(x))  # [B, 1024, 7, 7], [B, 448, 8, 8]
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


def _transition(fan_in: int, width: int, dropout: float) -> nn.Sequential:
    """[B, fan_in, H, W] → [B, width, H/2, W/2] (§3, pooling layers)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(norm=nn.BatchNorm2d(fan_in), relu=nn.ReLU(inplace=True))
    layers["conv"] = nn.Conv2d(fan_in, width, 1, bias=False)
    layers["dropout"] = nn.Dropout(dropout)
    layers["pool"] = nn.AvgPool2d(2)
    return nn.Sequential(layers)


@register_model("densenet40", input=(3, 32, 32))
def densenet40(
    classes: int = 10, channels: int = 3, growth: int = 12, initial: int = 16, dropout: float = 0.0
) -> DenseNet:
    """Three blocks of 12 layers, 1,019,722 parameters (1.0 M in table 2), 264.8 M MACs.

    `initial`: channels of the first convolution. The paper has 16; 24, as in some repositories, gives 1,059,298
    parameters and 282.9 M MACs.
    """
    stem: dict[str, nn.Module] = {"conv0": nn.Conv2d(channels, initial, 3, padding=1, bias=False)}  # [B, 16, 32, 32]
    return DenseNet(stem, initial, (12, 12, 12), DenseLayer, growth, 1.0, classes, dropout)


@register_model("densenet121", input=(3, 224, 224))
def densenet121(
    classes: int = 1000, channels: int = 3, growth: int = 32, initial: int = 64, dropout: float = 0.0
) -> DenseNet:
    """Blocks of 6, 12, 24 and 16 bottleneck layers, 7,978,856 parameters, 2.83 G MACs (tools that count batch norm
    and pooling as products too say 2.87 to 2.90)."""
    stem: dict[str, nn.Module] = {
        "conv0": nn.Conv2d(channels, initial, 7, 2, padding=3, bias=False),  # [B, 64, 112, 112]
        "norm0": nn.BatchNorm2d(initial),
        "relu0": nn.ReLU(inplace=True),
        "pool0": nn.MaxPool2d(3, 2, padding=1),  # [B, 64, 56, 56]
    }
    return DenseNet(stem, initial, (6, 12, 24, 16), BottleneckLayer, growth, 0.5, classes, dropout)
