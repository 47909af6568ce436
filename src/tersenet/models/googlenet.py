"""GoogLeNet (Szegedy et al. 2015, Going Deeper with Convolutions): Inception v1."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.compact import is_small
from tersenet.models.initial import he_normal
from tersenet.models.zoo import register_model

MODULES = (  # table 1: (#1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj) of 3a-b, 4a-e, 5a-b
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        *((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64)),
        *((112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def _layer(fan_in: int, width: int, size: int, stride: int = 1) -> list[nn.Module]:
    """Convolution and ReLU: [B, fan_in, H, W] → [B, width, H/stride, W/stride]."""
    return [nn.Conv2d(fan_in, width, size, stride, padding=size // 2), nn.ReLU()]


class Inception(nn.Module):
    """1×1, 3×3, 5×5 and max pooling beside each other, the larger ones after a 1×1 to fewer channels (figure 2b).

    widths: a row of MODULES, whose first, third, fifth and sixth are the channels of the result.
    """

    def __init__(self, fan_in: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.one = nn.Sequential(*_layer(fan_in, one, 1))
        self.three = nn.Sequential(*_layer(fan_in, reduce3, 1), *_layer(reduce3, three, 3))
        self.five = nn.Sequential(*_layer(fan_in, reduce5, 1), *_layer(reduce5, five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), *_layer(fan_in, pool, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, one + three + five + pool, H, W]
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


@register_model("googlenet", input=(3, 224, 224))
class GoogLeNet(nn.Module):
    """Three convolutions, nine inception modules, the mean over all positions, one linear layer.

    6,998,552 parameters, 1.58 G MACs. Without local response normalisation and the two classifiers that help training.
    image: height and width; below 96 the first convolution has stride 1 and the first pooling is left out, so that
    32×32 ends as 4×4.
    """

    def __init__(self, classes: int = 1000, channels: int = 3, image: int = 224, dropout: float = 0.4) -> None:
        super().__init__()
        self.pooled = not is_small(image, least=8)
        self.conv1 = nn.Sequential(*_layer(channels, 64, 7, 2 if self.pooled else 1))
        self.conv2 = nn.Sequential(*_layer(64, 64, 1), *_layer(64, 192, 3))
        fan_in, stages = 192, []
        for rows in MODULES:
            modules: list[nn.Module] = []
            for widths in rows:
                modules.append(Inception(fan_in, widths))
                fan_in = widths[0] + widths[2] + widths[4] + widths[5]
            stages.append(nn.Sequential(*modules))
        self.inception3, self.inception4, self.inception5 = stages
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(fan_in, classes)
        he_normal(self, "fan_in")

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 224, 224] or [B, 3, 32, 32]
        x = self.conv1(x)  # [B, 64, 112, 112] or [B, 64, 32, 32]
        x = self.conv2(_halved(x) if self.pooled else x)  # [B, 192, 56, 56] or [B, 192, 32, 32]
        x = self.inception3(_halved(x))  # [B, 480, 28, 28] or [B, 480, 16, 16]
        x = self.inception4(_halved(x))  # [B, 832, 14, 14] or [B, 832, 8, 8]
        x = self.inception5(_halved(x))  # [B, 1024, 7, 7] or [B, 1024, 4, 4]
        return self.classifier(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]


def _halved(x: torch.Tensor) -> torch.Tensor:
    """3×3 max pooling: [B, C, H, W] → [B, C, H/2, W/2], rounded up."""
    return F.max_pool2d(x, 3, 2, ceil_mode=True)
