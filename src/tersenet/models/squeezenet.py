"""SqueezeNet (Iandola et al. 2016, AlexNet-level accuracy with 50x fewer parameters) and its version 1.1."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.compact import is_small
from tersenet.models.initial import he_normal
from tersenet.models.zoo import register_model

FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Table 1, fire2 to fire9: (filters of the squeeze layer, filters of each expand layer)."""


class Fire(nn.Module):
    """1×1 to few channels, from which 1×1 and 3×3 each make half of the result (figure 1)."""

    def __init__(self, fan_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(fan_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, 2 · expand, H, W]
        x = F.relu(self.squeeze(x))  # [B, squeeze, H, W]
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):
    """A strided convolution, eight fire modules with three max poolings among them, 1×1 to the classes, the mean.

    stem: the first convolution. pooled: after which fire modules, 0 for the stem, the image is halved.
    """

    def __init__(self, stem: nn.Conv2d, pooled: tuple[int, ...], classes: int, dropout: float) -> None:
        super().__init__()
        fan_in = stem.out_channels
        layers: list[nn.Module] = [stem, nn.ReLU()]
        for number, (squeeze, expand) in enumerate(FIRES):
            if number in pooled:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            layers.append(Fire(fan_in, squeeze, expand))
            fan_in = 2 * expand
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(fan_in, classes, 1)
        he_normal(self, "fan_in")
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 224, 224] or [B, 3, 32, 32]
        x = self.dropout(self.features(x))  # [B, 512, 13, 13] or [B, 512, 4, 4]
        return F.relu(self.classifier(x)).mean((2, 3))  # [B, 1000, 13, 13] → [B, 1000]


def _stem(channels: int, image: int, width: int, size: int) -> nn.Conv2d:
    if is_small(image, least=8):
        return nn.Conv2d(channels, width, 3, padding=1)
    return nn.Conv2d(channels, width, size, 2)


@register_model("squeezenet1_0", input=(3, 224, 224))
def squeezenet1_0(classes: int = 1000, channels: int = 3, image: int = 224, dropout: float = 0.5) -> SqueezeNet:
    """1,248,424 parameters, 818.9 M MACs; 832.7 M for 227×227 images.

    image: height and width; below 96 the first convolution is 3×3 with stride 1, so that 32×32 ends as 4×4.
    """
    return SqueezeNet(_stem(channels, image, 96, 7), (0, 3, 7), classes, dropout)


@register_model("squeezenet1_1", input=(3, 224, 224))
def squeezenet1_1(classes: int = 1000, channels: int = 3, image: int = 224, dropout: float = 0.5) -> SqueezeNet:
    """1,235,496 parameters, 349.2 M MACs; 387.8 M for 227×227 images. A smaller first layer, and poolings earlier.

    image: as for `squeezenet1_0`.
    """
    return SqueezeNet(_stem(channels, image, 64, 3), (0, 2, 4), classes, dropout)
