"""MobileNetV2 (Sandler et al. 2018, Inverted Residuals and Linear Bottlenecks)."""

from __future__ import annotations

import torch
from torch import nn

from tersenet.models.compact import check_width, is_small, multiple, normed
from tersenet.models.zoo import register_model

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Table 2: (expansion t, channels c, blocks n, stride s of the first block)."""


class InvertedResidual(nn.Module):
    """1×1 to `expansion` times the channels, 3×3 on each, 1×1 back without activation (table 1); added to x where
    shapes agree."""

    def __init__(self, fan_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * fan_in
        self.layers = nn.Sequential(
            *(normed(fan_in, hidden, 1, activation=nn.ReLU6) if expansion > 1 else []),  # [B, hidden, H, W]
            *normed(hidden, hidden, 3, stride, hidden, nn.ReLU6),  # [B, hidden, H/stride, W/stride]
            *normed(hidden, width, 1, activation=None),  # [B, width, H/stride, W/stride]
        )
        self.residual = stride == 1 and fan_in == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, width, H/stride, W/stride]
        return x + self.layers(x) if self.residual else self.layers(x)  # type: ignore[no-any-return]


@register_model("mobilenet_v2", input=(3, 224, 224))
class MobileNetV2(nn.Module):
    """A strided 3×3 convolution, 17 inverted residuals, 1×1 to 1280 channels, the mean, one linear layer.

    3,504,872 parameters, 300.8 M MACs. width: channels of every layer times it, to multiples of 8; the last 1×1 layer
    does not get narrower than 1280. image: height and width; below 96 the first two strides are 1, so that 32×32 ends
    as 4×4.
    """

    def __init__(
        self,
        classes: int = 1000,
        channels: int = 3,
        image: int = 224,
        width: float = 1.0,
        dropout: float = 0.2,
    ) -> None:
        check_width(width)
        super().__init__()
        small = is_small(image, least=8)
        fan_in = multiple(32 * width, 8)
        layers: list[nn.Module] = [nn.Sequential(*normed(channels, fan_in, 3, 1 if small else 2, activation=nn.ReLU6))]
        for expansion, filters, count, stride in STAGES:
            wide = multiple(filters * width, 8)
            first = 1 if small and filters == 24 else stride
            for index in range(count):
                layers.append(InvertedResidual(fan_in, wide, 1 if index else first, expansion))
                fan_in = wide
        last = multiple(1280 * max(1.0, width), 8)
        self.features = nn.Sequential(*layers, nn.Sequential(*normed(fan_in, last, 1, activation=nn.ReLU6)))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 224, 224] or [B, 3, 32, 32]
        x = self.features(x)  # [B, 1280, 7, 7] or [B, 1280, 4, 4]
        return self.classifier(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]
