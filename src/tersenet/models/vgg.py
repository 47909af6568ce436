"""VGG (Simonyan and Zisserman 2015): for 32×32 images with batch norm, and as published for 224×224."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tersenet.models.initial import he_normal
from tersenet.models.zoo import register_model

CIFAR = (3, 32, 32)
BLOCKS = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


class VGG(nn.Module):
    """Blocks of 3×3 convolution, batch norm and ReLU, each block ended by 2×2 max pooling; then the classifier."""

    def __init__(self, features: nn.Module, classifier: nn.Module, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 32, 32] or [B, 3, 224, 224]
        x = self.features(x)  # [B, 512, 1, 1] or [B, 512, 7, 7]
        return self.classifier(self.dropout(x.flatten(1)))  # type: ignore[no-any-return]


def _features(blocks: Sequence[Sequence[int]], channels: int, batch_norm: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for block in blocks:
        for width in block:
            norm = [nn.BatchNorm2d(width)] if batch_norm else []
            layers += [nn.Conv2d(channels, width, 3, padding=1), *norm, nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@register_model("vgg11_bn", input=CIFAR)
def vgg11_bn(classes: int = 10, channels: int = 3, dropout: float = 0.0) -> VGG:
    """Eight convolutions and one linear layer, for 32×32 images."""
    return VGG(_features(BLOCKS["vgg11"], channels), nn.Linear(512, classes), dropout)


@register_model("vgg16_bn", input=CIFAR)
def vgg16_bn(classes: int = 10, channels: int = 3, dropout: float = 0.0) -> VGG:
    """Thirteen convolutions and one linear layer, for 32×32 images; `vgg16` with `batch_norm` is that for 224×224."""
    return VGG(_features(BLOCKS["vgg16"], channels), nn.Linear(512, classes), dropout)


@register_model("vgg16_cifar", input=CIFAR)
def vgg16_cifar(classes: int = 10, channels: int = 3, hidden: int = 512, dropout: float = 0.0) -> VGG:
    """The VGG-16 of Pruning Filters (Li et al. 2017, §4.1): `vgg16_bn` with a hidden linear layer and its batch norm.

    14,991,946 parameters, 313.5 M MACs (1.5e7 and 3.1e8 in table 2 there).
    """
    features = _features(BLOCKS["vgg16"], channels)
    layers = [nn.Linear(512, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]  # [B, 512]
    return VGG(features, nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(hidden, classes)), dropout)


@register_model("vgg16", input=(3, 224, 224))
def vgg16(
    classes: int = 1000,
    channels: int = 3,
    image: int = 224,
    hidden: int = 4096,
    batch_norm: bool = False,
    dropout: float = 0.5,
) -> VGG:
    """Configuration D (table 1), 138,357,544 parameters, 15.5 G MACs; `batch_norm` adds 8,448 parameters.

    image: height and width, of which the first linear layer's inputs follow: 512 · (image / 32)² (floor).
    """
    if image < 32:
        raise ValueError(f"image must be at least 32, not {image}")
    features = _features(BLOCKS["vgg16"], channels, batch_norm)
    classifier = nn.Sequential(
        *(nn.Linear(512 * (image // 32) ** 2, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)),  # [B, 4096]
        *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)),  # [B, 4096]
        nn.Linear(hidden, classes),  # [B, 1000]
    )
    for layer in classifier:
        if isinstance(layer, nn.Linear):  # §3.1
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return VGG(features, classifier, dropout=0.0)
