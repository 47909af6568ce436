"""MobileNet (Howard et al. 2017, MobileNets: Efficient Convolutional Neural Networks for Mobile Vision)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.compact import check_width, is_small, normed
from tersenet.models.zoo import register_model

LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *5 * ((512, 1),), (1024, 2), (1024, 1))
"""Table 1: (filters, stride). The last stride is 2 there, but its own sizes, 7×7 before and after, need 1."""
SHALLOW = (*LAYERS[:6], *LAYERS[11:])
"""Without the five layers of 14×14×512 (§4.1)."""


class Separable(nn.Sequential):
    """A 3×3 filter on each channel, then 1×1 to combine them (figure 3, right)."""

    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__(
            *normed(fan_in, fan_in, 3, stride, groups=fan_in),  # [B, fan_in, H, W] → [B, fan_in, H/stride, W/stride]
            *normed(fan_in, width, 1),  # [B, width, H/stride, W/stride]
        )


@register_model("mobilenet_v1", input=(3, 224, 224))
class MobileNetV1(nn.Module):
    """A strided 3×3 convolution, thirteen separable ones, the mean over all positions, one linear layer.

    4,231,976 parameters, 568.7 M MACs. width: the paper's α, filters of every layer times it, at least 8. image: height
    and width. resolution: the paper's ρ, by which images are scaled first; that costs as much as smaller images do.
    Below 96 pixels the first stride is 1, so that 32×32 ends as 2×2. shallow: eight separable layers (table 5).
    conv: full 3×3 convolutions instead of separable ones (table 4, Conv MobileNet).
    """

    def __init__(
        self,
        classes: int = 1000,
        channels: int = 3,
        image: int = 224,
        width: float = 1.0,
        resolution: float = 1.0,
        shallow: bool = False,
        conv: bool = False,
    ) -> None:
        check_width(width)
        if not 0 < resolution <= 1:
            raise ValueError(f"resolution must be above 0 and at most 1, not {resolution}")
        super().__init__()
        self.image, self.side = image, round(image * resolution)
        stride = 1 if is_small(self.side, least=16) else 2
        fan_in = _scaled(32, width)
        layers: list[nn.Module] = [nn.Sequential(*normed(channels, fan_in, 3, stride))]
        for filters, stride in SHALLOW if shallow else LAYERS:
            wide = _scaled(filters, width)
            full = nn.Sequential(*normed(fan_in, wide, 3, stride)) if conv else None
            layers.append(full or Separable(fan_in, wide, stride))
            fan_in = wide
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(fan_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 224, 224] or [B, 3, 32, 32]
        if self.side != self.image:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        x = self.features(x)  # [B, 1024, 7, 7] or [B, 1024, 2, 2]
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


def _scaled(filters: int, width: float) -> int:
    return max(8, int(filters * width))
