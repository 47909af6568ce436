"""VGG with batch normalisation for 32×32 images (Simonyan and Zisserman 2015, with one linear layer as classifier)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tersenet.models.zoo import register_model

CIFAR = (3, 32, 32)
BLOCKS = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


class VGG(nn.Module):
    """Blocks of 3×3 convolution, batch norm and ReLU, each block ended by 2×2 max pooling; then one linear layer."""

    def __init__(self, blocks: Sequence[Sequence[int]], classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(blocks, channels))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(blocks[-1][-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 32, 32]
        x = self.features(x)  # [B, 512, 1, 1]
        return self.classifier(self.dropout(x.flatten(1)))  # type: ignore[no-any-return]


def _features(blocks: Sequence[Sequence[int]], channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for block in blocks:
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers


@register_model("vgg11_bn", input=CIFAR)
def vgg11_bn(classes: int = 10, channels: int = 3, dropout: float = 0.0) -> VGG:
    """Eight convolutions."""
    return VGG(BLOCKS["vgg11"], classes, channels, dropout)


@register_model("vgg16_bn", input=CIFAR)
def vgg16_bn(classes: int = 10, channels: int = 3, dropout: float = 0.0) -> VGG:
    """Thirteen convolutions."""
    return VGG(BLOCKS["vgg16"], classes, channels, dropout)
