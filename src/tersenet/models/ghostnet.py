"""GhostNet (Han et al. 2020, More Features from Cheap Operations)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.compact import check_width, is_small, multiple, normed
from tersenet.models.zoo import register_model

STAGES = (  # table 1: (kernel, expansion, channels, squeeze and excitation, stride)
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2), (3, 72, 24, False, 1)),
    ((5, 72, 40, True, 2), (5, 120, 40, True, 1)),
    ((3, 240, 80, False, 2), (3, 200, 80, False, 1), *2 * ((3, 184, 80, False, 1),)),
    ((3, 480, 112, True, 1), (3, 672, 112, True, 1)),
    ((5, 672, 160, True, 2), *2 * ((5, 960, 160, False, 1), (5, 960, 160, True, 1))),
)


class Ghost(nn.Module):
    """Half of the channels by a 1×1 convolution, the other half by a 3×3 filter on each of those (figure 1b).

    width: even.
    """

    def __init__(self, fan_in: int, width: int, activation: type[nn.Module] | None = nn.ReLU) -> None:
        super().__init__()
        half = width // 2
        self.primary = nn.Sequential(*normed(fan_in, half, 1, activation=activation))
        self.cheap = nn.Sequential(*normed(half, half, 3, groups=half, activation=activation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, width, H, W]
        x = self.primary(x)  # [B, width / 2, H, W]
        return torch.cat([x, self.cheap(x)], 1)


class SqueezeExcite(nn.Module):
    """Each channel times a share in [0, 1] that two layers compute from the means of all channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = multiple(width / 4, 4)
        self.reduce, self.expand = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, width, H, W]
        share = F.relu(self.reduce(x.mean((2, 3), keepdim=True)))  # [B, hidden, 1, 1]
        return x * F.hardsigmoid(self.expand(share))


class GhostBottleneck(nn.Module):
    """Ghost to `hidden` channels, a strided filter on each if stride is 2, ghost to `width`; added to x (figure 3)."""

    def __init__(self, fan_in: int, hidden: int, width: int, kernel: int, stride: int, excite: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Ghost(fan_in, hidden),  # [B, hidden, H, W]
            *(normed(hidden, hidden, kernel, stride, hidden, None) if stride > 1 else []),  # [B, hidden, H/2, W/2]
            *([SqueezeExcite(hidden)] if excite else []),
            Ghost(hidden, width, activation=None),  # [B, width, H/stride, W/stride]
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or fan_in != width:
            filters = normed(fan_in, fan_in, kernel, stride, fan_in, None)
            self.shortcut = nn.Sequential(*filters, *normed(fan_in, width, 1, activation=None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, width, H/stride, W/stride]
        return self.layers(x) + self.shortcut(x)  # type: ignore[no-any-return]


@register_model("ghostnet", input=(3, 224, 224))
class GhostNet(nn.Module):
    """A strided 3×3 convolution, 16 ghost bottlenecks, 1×1 to 960 channels, the mean, 1280 neurons, one linear layer.

    5,182,508 parameters, 141.2 M MACs. width: channels of every layer but the 1280 times it, to multiples of 4. image:
    height and width; below 96 the first stride is 1, so that 32×32 ends as 2×2.
    """

    def __init__(
        self, classes: int = 1000, channels: int = 3, image: int = 224, width: float = 1.0, dropout: float = 0.2
    ) -> None:
        check_width(width)
        super().__init__()
        stride = 1 if is_small(image, least=16) else 2
        fan_in = multiple(16 * width, 4)
        layers: list[nn.Module] = [nn.Sequential(*normed(channels, fan_in, 3, stride))]
        for kernel, expansion, filters, excite, stride in (row for stage in STAGES for row in stage):
            hidden, wide = multiple(expansion * width, 4), multiple(filters * width, 4)
            layers.append(GhostBottleneck(fan_in, hidden, wide, kernel, stride, excite))
            fan_in = wide
        last = multiple(960 * width, 4)
        self.features = nn.Sequential(*layers, nn.Sequential(*normed(fan_in, last, 1)))
        self.hidden = nn.Conv2d(last, 1280, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 224, 224] or [B, 3, 32, 32]
        x = self.features(x)  # [B, 960, 7, 7] or [B, 960, 2, 2]
        x = F.relu(self.hidden(x.mean((2, 3), keepdim=True)))  # [B, 1280, 1, 1]
        return self.classifier(self.dropout(x.flatten(1)))  # type: ignore[no-any-return]
