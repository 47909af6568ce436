"""Xception (Chollet 2017, Deep Learning with Depthwise Separable Convolutions)."""

from __future__ import annotations

import torch
from torch import nn

from tersenet.models.compact import check_width, is_small, multiple, normed
from tersenet.models.zoo import register_model


class Separable(nn.Sequential):
    """A 3×3 filter on each channel, 1×1, batch norm; nothing between the two convolutions (§2 and figure 10)."""

    def __init__(self, fan_in: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(fan_in, fan_in, 3, padding=1, groups=fan_in, bias=False),  # [B, fan_in, H, W]
            *normed(fan_in, width, 1, activation=None),  # [B, width, H, W]
        )


class Block(nn.Module):
    """Separable convolutions with ReLU before each, added to x (figure 5).

    widths: of each convolution. strided: ends with max pooling that halves the image, and the shortcut is a strided
    1×1 convolution. activated: whether x comes with its ReLU.
    """

    def __init__(self, fan_in: int, widths: tuple[int, ...], strided: bool, activated: bool = False) -> None:
        super().__init__()
        shortcut = normed(fan_in, widths[-1], 1, 2, activation=None) if strided else []
        self.shortcut = nn.Sequential(*shortcut)
        layers: list[nn.Module] = []
        for before, width in zip((fan_in, *widths), widths, strict=False):
            layers += [nn.ReLU(), Separable(before, width)]
        layers = layers[1:] if activated else layers
        self.layers = nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, padding=1)] if strided else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, widths[-1], H or H/2, W or W/2]
        return self.layers(x) + self.shortcut(x)  # type: ignore[no-any-return]


@register_model("xception", input=(3, 299, 299))
class Xception(nn.Module):
    """Two convolutions, twelve blocks, two separable convolutions, the mean over all positions, one linear layer.

    22,855,952 parameters, 8.36 G MACs. width: channels of every layer times it, to multiples of 8. image: height and
    width; below 96 the first convolution has stride 1 and the first two are padded, so that 32×32 ends as 2×2.
    """

    def __init__(
        self, classes: int = 1000, channels: int = 3, image: int = 299, width: float = 1.0, dropout: float = 0.5
    ) -> None:
        check_width(width)
        super().__init__()
        small = is_small(image, least=16)
        a, b, c, d, e, f, g, h = (multiple(width * wide, 8) for wide in (32, 64, 128, 256, 728, 1024, 1536, 2048))
        self.stem = nn.Sequential(*normed(channels, a, 3, 1 if small else 2), *normed(a, b, 3))
        for layer in self.stem:
            if isinstance(layer, nn.Conv2d) and not small:
                layer.padding = (0, 0)
        self.entry = nn.Sequential(
            Block(b, (c, c), strided=True, activated=True),
            Block(c, (d, d), strided=True),
            Block(d, (e, e), strided=True),
        )
        self.middle = nn.Sequential(*(Block(e, (e, e, e), strided=False) for _ in range(8)))
        self.exit = nn.Sequential(
            *(Block(e, (e, f), strided=True), Separable(f, g), nn.ReLU(), Separable(g, h), nn.ReLU()),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(h, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 299, 299] or [B, 3, 32, 32]
        x = self.stem(x)  # [B, 64, 147, 147] or [B, 64, 32, 32]
        x = self.middle(self.entry(x))  # [B, 728, 19, 19] or [B, 728, 4, 4]
        x = self.exit(x)  # [B, 2048, 10, 10] or [B, 2048, 2, 2]
        return self.classifier(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]
