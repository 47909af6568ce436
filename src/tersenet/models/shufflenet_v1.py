"""ShuffleNet (Zhang et al. 2018, An Extremely Efficient Convolutional Neural Network for Mobile Devices)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.compact import check_width, is_small, normed
from tersenet.models.zoo import register_model

CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Table 1: groups → output channels of stage 2; each of the next two stages has twice as many."""
BLOCKS = (4, 8, 4)


class ShuffleBlock(nn.Module):
    """Grouped 1×1, shuffle, 3×3 on each channel, grouped 1×1 (figure 2, b and c).

    At stride 1 the result is added to x; at stride 2 it comes beside the 3×3 mean of x. first: whether it is the first
    of all, whose first 1×1 is not grouped, as it reads few channels (§3.2).
    """

    def __init__(self, fan_in: int, width: int, groups: int, stride: int, first: bool) -> None:
        super().__init__()
        hidden = _divisible(width / 4, groups)
        made = width - fan_in if stride == 2 else width
        self.groups, self.stride = groups, stride
        self.reduce = nn.Sequential(*normed(fan_in, hidden, 1, groups=1 if first else groups))
        self.filter = nn.Sequential(*normed(hidden, hidden, 3, stride, hidden, activation=None))
        self.expand = nn.Sequential(*normed(hidden, made, 1, groups=groups, activation=None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, width, H/stride, W/stride]
        y = shuffle(self.reduce(x), self.groups)  # [B, hidden, H, W]
        y = self.expand(self.filter(y))  # [B, made, H/stride, W/stride]
        if self.stride == 1:
            return F.relu(x + y)
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, padding=1), y], 1))


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """[B, groups · n, H, W]: channel g · n + i becomes i · groups + g (figure 1, c)."""
    parts = torch.unflatten(x, 1, (groups, -1))  # [B, groups, n, H, W]
    return parts.transpose(1, 2).flatten(1, 2)  # [B, n, groups, H, W] → [B, n · groups, H, W]


@register_model("shufflenet_v1", input=(3, 224, 224))
class ShuffleNetV1(nn.Module):
    """A strided 3×3 convolution, max pooling, three stages of blocks, the mean over all positions, one linear layer.

    With 3 groups 1,865,728 parameters, 137.4 M MACs. groups: of the 1×1 convolutions, 1, 2, 3, 4 or 8, which decide the
    channels (table 1). width: the paper's scale s, channels of every layer times it, up to what `groups` divides.
    image: height and width; below 96 the first stride is 1 and there is no max pooling, so that 32×32 ends as 4×4.
    """

    def __init__(
        self, classes: int = 1000, channels: int = 3, image: int = 224, groups: int = 3, width: float = 1.0
    ) -> None:
        check_width(width)
        if groups not in CHANNELS:
            raise ValueError(f"groups must be one of {', '.join(map(str, CHANNELS))}, not {groups}")
        super().__init__()
        self.pooled = not is_small(image, least=8)
        fan_in = _divisible(24 * width, groups)
        self.stem = nn.Sequential(*normed(channels, fan_in, 3, 2 if self.pooled else 1))
        stages: list[nn.Module] = []
        for number, count in enumerate(BLOCKS):
            wide = _divisible(CHANNELS[groups] * 2**number * width, groups)
            blocks = [ShuffleBlock(fan_in, wide, groups, 2, first=number == 0)]
            blocks += [ShuffleBlock(wide, wide, groups, 1, first=False) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            fan_in = wide
        self.stage2, self.stage3, self.stage4 = stages
        self.classifier = nn.Linear(fan_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 224, 224] or [B, 3, 32, 32]
        x = self.stem(x)  # [B, 24, 112, 112] or [B, 24, 32, 32]
        x = F.max_pool2d(x, 3, 2, padding=1) if self.pooled else x  # [B, 24, 56, 56] or [B, 24, 32, 32]
        x = self.stage3(self.stage2(x))  # [B, 240, 28, 28] → [B, 480, 14, 14], or 16×16 → 8×8
        x = self.stage4(x)  # [B, 960, 7, 7] or [B, 960, 4, 4]
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


def _divisible(channels: float, by: int) -> int:
    """The least multiple of `by` that is not below `channels`."""
    return -int(-channels // by) * by
