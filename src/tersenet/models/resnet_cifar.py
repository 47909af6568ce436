"""Residual networks for 32×32 images (He et al. 2015, Deep Residual Learning, §4.2): 6n + 2 layers.

Two shortcuts where a stage doubles its channels (§3.3): "A", every second pixel and zeros for the new channels, which
has no parameters and is the paper's choice here, or "B", a 1×1 projection. Pruning Filters (Li et al. 2017, table 1)
gives ResNet-56 with 0.85 M parameters and 1.25e8 operations, ResNet-110 with 1.72 M and 2.53e8: that is "A" (853,018
and 125,485,696 MACs; 1,727,962, cut and not rounded, and 252,887,680), as §4.2 there says. "B" has 855,770 and
1,730,714 parameters, 125,747,840 and 253,149,824 MACs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.initial import he_normal
from tersenet.models.resnet import BasicBlock, conv, projection
from tersenet.models.zoo import register_model

CIFAR = (3, 32, 32)


class PaddedBlock(BasicBlock):
    """relu(F(x) + shortcut(x)) with shortcut "A": the first channels go on, the others start from F alone.

    How many zeros are needed follows from the two tensors, so it stays right when channels of either are removed.
    """

    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__(fan_in, width, stride, nn.Identity())
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, width, H/stride, W/stride]
        y = self.residual(x)
        x = x[:, :, :: self.stride, :: self.stride]  # [B, fan_in, H/stride, W/stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])))


class CifarResNet(nn.Module):
    """A 3×3 convolution, three stages of n blocks of two layers, the mean over all positions, one linear layer."""

    def __init__(self, layers: int, classes: int, channels: int, width: int, shortcut: str) -> None:
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut must be 'A' or 'B', not {shortcut!r}")
        super().__init__()
        count = (layers - 2) // 6
        self.conv1, self.bn1 = conv(channels, width, 3), nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1, count, shortcut)
        self.layer2 = _stage(width, 2 * width, 2, count, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, 2, count, shortcut)
        self.fc = nn.Linear(4 * width, classes)
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 32, 32]
        x = F.relu(self.bn1(self.conv1(x)))  # [B, 16, 32, 32]
        x = self.layer2(self.layer1(x))  # [B, 16, 32, 32] → [B, 32, 16, 16]
        x = self.layer3(x)  # [B, 64, 8, 8]
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(fan_in: int, width: int, stride: int, count: int, shortcut: str) -> nn.Sequential:
    blocks = [BasicBlock(width, width, 1, nn.Identity()) for _ in range(count - 1)]
    if shortcut == "A" and stride > 1:
        return nn.Sequential(PaddedBlock(fan_in, width, stride), *blocks)
    return nn.Sequential(BasicBlock(fan_in, width, stride, projection(fan_in, width, stride)), *blocks)


@register_model("resnet20", input=CIFAR)
def resnet20(classes: int = 10, channels: int = 3, width: int = 16, shortcut: str = "A") -> CifarResNet:
    """269,722 parameters, 40.6 M MACs."""
    return CifarResNet(20, classes, channels, width, shortcut)


@register_model("resnet32", input=CIFAR)
def resnet32(classes: int = 10, channels: int = 3, width: int = 16, shortcut: str = "A") -> CifarResNet:
    """464,154 parameters, 68.9 M MACs."""
    return CifarResNet(32, classes, channels, width, shortcut)


@register_model("resnet44", input=CIFAR)
def resnet44(classes: int = 10, channels: int = 3, width: int = 16, shortcut: str = "A") -> CifarResNet:
    """658,586 parameters, 97.2 M MACs."""
    return CifarResNet(44, classes, channels, width, shortcut)


@register_model("resnet56", input=CIFAR)
def resnet56(classes: int = 10, channels: int = 3, width: int = 16, shortcut: str = "A") -> CifarResNet:
    """853,018 parameters, 125.5 M MACs."""
    return CifarResNet(56, classes, channels, width, shortcut)


@register_model("resnet110", input=CIFAR)
def resnet110(classes: int = 10, channels: int = 3, width: int = 16, shortcut: str = "A") -> CifarResNet:
    """1,727,962 parameters, 252.9 M MACs."""
    return CifarResNet(110, classes, channels, width, shortcut)
