"""AlexNet for 224×224 images, in one tower or with the grouped convolutions of the first one."""

from __future__ import annotations

import torch
from torch import nn

from tersenet.models.zoo import register_model


@register_model("alexnet", input=(3, 224, 224))
class AlexNet(nn.Module):
    """Five convolutions and three linear layers, the first 9216 → 4096.

    One tower of 64-192-384-256-256 filters: 61,100,840 parameters, 714 M MACs (Krizhevsky 2014, One Weird Trick).
    `grouped`: 96-256-384-384-256 filters, convolutions 2, 4 and 5 in two groups: 60,965,224 parameters, 724 M MACs
    (Krizhevsky et al. 2012; Caffe's `bvlc_alexnet`, the AlexNet of Deep Compression and of Structured Sparsity
    Learning), but without local response normalisation.

    image: height and width; 224 and 227 give the same 6×6 at the end. hidden: neurons of the two linear layers.
    """

    def __init__(
        self,
        classes: int = 1000,
        channels: int = 3,
        image: int = 224,
        hidden: int = 4096,
        grouped: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        a, b, c, d, e = (96, 256, 384, 384, 256) if grouped else (64, 192, 384, 256, 256)
        groups = 2 if grouped else 1
        self.features = nn.Sequential(
            *_layer(nn.Conv2d(channels, a, 11, 4, padding=2)),  # [B, 64, 55, 55]
            nn.MaxPool2d(3, 2),  # [B, 64, 27, 27]
            *_layer(nn.Conv2d(a, b, 5, padding=2, groups=groups)),  # [B, 192, 27, 27]
            nn.MaxPool2d(3, 2),  # [B, 192, 13, 13]
            *_layer(nn.Conv2d(b, c, 3, padding=1)),  # [B, 384, 13, 13]
            *_layer(nn.Conv2d(c, d, 3, padding=1, groups=groups)),  # [B, 256, 13, 13]
            *_layer(nn.Conv2d(d, e, 3, padding=1, groups=groups)),  # [B, 256, 13, 13]
            nn.MaxPool2d(3, 2),  # [B, 256, 6, 6]
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            *_layer(nn.Linear(e * _side(image) ** 2, hidden)),  # [B, 9216] → [B, 4096]
            nn.Dropout(dropout),
            *_layer(nn.Linear(hidden, hidden)),  # [B, 4096]
            nn.Linear(hidden, classes),  # [B, 1000]
        )
        _initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 224, 224]
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


def _layer(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    return layer, nn.ReLU(inplace=True)


def _side(image: int) -> int:
    """Height of what the last pooling gives for an image of this height: 6 for 224."""
    side = (image + 4 - 11) // 4 + 1
    for _ in range(3):
        side = (side - 3) // 2 + 1
    if side < 1:
        raise ValueError(f"image must be at least 63, not {image}")
    return side


def _initialise(model: AlexNet) -> None:
    """N(0, 0.01²); biases 1 in convolutions 2, 4 and 5 and in the hidden linear layers, else 0 (2012 paper, §5)."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for number, layer in enumerate(layers, start=1):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(layer.bias, 1.0 if number in (2, 4, 5, 6, 7) else 0.0)  # type: ignore[arg-type]
