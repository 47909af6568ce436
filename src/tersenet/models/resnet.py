"""Residual networks for 224×224 images (He et al. 2015, Deep Residual Learning, table 1).

No channel count stands in any forward; parameters carry the names that published checkpoints use (`layer1.0.conv1`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tersenet.models.initial import he_normal
from tersenet.models.zoo import register_model

IMAGENET = (3, 224, 224)


def conv(fan_in: int, width: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, as a batch norm follows; at stride 1 it keeps height and width."""
    return nn.Conv2d(fan_in, width, size, stride, padding=size // 2, bias=False)


def projection(fan_in: int, width: int, stride: int) -> nn.Module:
    """The shortcut: the identity where shapes agree, else a strided 1×1 convolution with batch norm (option B)."""
    if stride == 1 and fan_in == width:
        return nn.Identity()
    return nn.Sequential(conv(fan_in, width, 1, stride), nn.BatchNorm2d(width))


class BasicBlock(nn.Module):
    """relu(F(x) + shortcut(x)), F of two 3×3 convolutions (figure 5, left)."""

    def __init__(self, fan_in: int, width: int, stride: int, downsample: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(fan_in, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, width, H/stride, W/stride]
        return F.relu(self.residual(x) + self.downsample(x))

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """F(x), with the shapes of `forward`."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """relu(F(x) + shortcut(x)), F of 1×1 to `width`, 3×3, and 1×1 to 4 · `width` channels (figure 5, right).

    strides: of the first 1×1 convolution and of the 3×3.
    """

    def __init__(self, fan_in: int, width: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(fan_in, width, 1, strides[0]), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, strides[1]), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = projection(fan_in, 4 * width, strides[0] * strides[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, fan_in, H, W] → [B, 4 · width, H/stride, W/stride]
        y = F.relu(self.bn1(self.conv1(x)))  # [B, width, …]
        y = F.relu(self.bn2(self.conv2(y)))  # [B, width, …]
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """A strided 7×7 convolution, max pooling, four stages of residual blocks, the mean over all positions, one linear
    layer. `features` is how many channels the last stage gives."""

    def __init__(self, stages: Sequence[nn.Module], features: int, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, width, 7, 2), nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(features, classes)
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 3, 224, 224]
        x = F.relu(self.bn1(self.conv1(x)))  # [B, 64, 112, 112]
        x = F.max_pool2d(x, 3, 2, padding=1)  # [B, 64, 56, 56]
        x = self.layer2(self.layer1(x))  # [B, 64 or 256, 56, 56] → [B, 128 or 512, 28, 28]
        x = self.layer4(self.layer3(x))  # [B, 256 or 1024, 14, 14] → [B, 512 or 2048, 7, 7]
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _basic(depths: Sequence[int], classes: int, channels: int, width: int) -> ResNet:
    stages, fan_in = [], width
    for number, depth in enumerate(depths):
        wide, blocks = width << number, []
        for index in range(depth):
            stride = 2 if number and not index else 1
            blocks.append(BasicBlock(fan_in, wide, stride, projection(fan_in, wide, stride)))
            fan_in = wide
        stages.append(nn.Sequential(*blocks))
    return ResNet(stages, fan_in, classes, channels, width)


def _bottlenecks(depths: Sequence[int], classes: int, channels: int, width: int, strided: str) -> ResNet:
    if strided not in ("1x1", "3x3"):
        raise ValueError(f"strided must be '1x1' or '3x3', not {strided!r}")
    stages, fan_in = [], width
    for number, depth in enumerate(depths):
        wide, blocks = width << number, []
        for index in range(depth):
            stride = 2 if number and not index else 1
            blocks.append(Bottleneck(fan_in, wide, (stride, 1) if strided == "1x1" else (1, stride)))
            fan_in = 4 * wide
        stages.append(nn.Sequential(*blocks))
    return ResNet(stages, fan_in, classes, channels, width)


@register_model("resnet18", input=IMAGENET)
def resnet18(classes: int = 1000, channels: int = 3, width: int = 64) -> ResNet:
    """11,689,512 parameters, 1.81 G MACs."""
    return _basic((2, 2, 2, 2), classes, channels, width)


@register_model("resnet34", input=IMAGENET)
def resnet34(classes: int = 1000, channels: int = 3, width: int = 64) -> ResNet:
    """21,797,672 parameters, 3.66 G MACs."""
    return _basic((3, 4, 6, 3), classes, channels, width)


@register_model("resnet50", input=IMAGENET)
def resnet50(classes: int = 1000, channels: int = 3, width: int = 64, strided: str = "3x3") -> ResNet:
    """25,557,032 parameters, 4.09 G MACs.

    strided: which convolution of a stage's first block halves the image: "3x3", as most published checkpoints have
    it, or "1x1", as the paper and its Caffe models have it (3.86 G MACs). The parameters are the same.
    """
    return _bottlenecks((3, 4, 6, 3), classes, channels, width, strided)


@register_model("resnet101", input=IMAGENET)
def resnet101(classes: int = 1000, channels: int = 3, width: int = 64, strided: str = "3x3") -> ResNet:
    """44,549,160 parameters, 7.80 G MACs; `strided` as in `resnet50` (7.57 G)."""
    return _bottlenecks((3, 4, 23, 3), classes, channels, width, strided)


@register_model("resnet152", input=IMAGENET)
def resnet152(classes: int = 1000, channels: int = 3, width: int = 64, strided: str = "3x3") -> ResNet:
    """60,192,808 parameters, 11.51 G MACs; `strided` as in `resnet50` (11.28 G)."""
    return _bottlenecks((3, 8, 36, 3), classes, channels, width, strided)
