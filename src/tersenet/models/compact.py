"""What the architectures built to be small have in common: their layers, widths and what an image's size decides."""

from __future__ import annotations

from torch import nn

SMALL = 96  # height from which on a network keeps the strides of its paper, which are those for 224×224


def normed(
    fan_in: int, width: int, size: int, stride: int = 1, groups: int = 1, activation: type[nn.Module] | None = nn.ReLU
) -> list[nn.Module]:
    """Convolution without bias, batch norm, activation: [B, fan_in, H, W] → [B, width, H/stride, W/stride].

    groups: `fan_in` for a depthwise convolution. Weights start with variance 2 / (k² · inputs), inputs of one group,
    before an activation (He et al. 2015, equation 10), and half of that without one.
    """
    conv = nn.Conv2d(fan_in, width, size, stride, padding=size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu" if activation else "linear")
    return [conv, nn.BatchNorm2d(width), *([activation()] if activation else [])]


def is_small(image: int, least: int) -> bool:
    """Whether images of this height get the form for 32×32: some first strides are 1.

    Raises ValueError below `least`, where strides would be left with nothing to stride over.
    """
    if image < least:
        raise ValueError(f"images must be at least {least} pixels high, not {image}")
    return image < SMALL


def check_width(width: float) -> None:
    """Raises ValueError unless the factor on all widths is positive."""
    if width <= 0:
        raise ValueError(f"width must be above 0, not {width}")


def multiple(channels: float, of: int) -> int:
    """The multiple of `of` nearest to `channels`, at least one, and the next if that were less than 90 % of them.

    As the code beside the MobileNetV2 paper (Sandler et al. 2018) rounds widths.
    """
    near = max(of, int(channels + of / 2) // of * of)
    return near if near >= 0.9 * channels else near + of
