"""Where the window of a two-dimensional convolution lies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tersenet.core.errors import DataError, ModelError

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Sizes down and across: of the kernel, of its steps, of the zeros on each side, and between its taps."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Geometry:
        """Raises ModelError for groups, and for padding by name or with other things than zeros."""
        if layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise ModelError("the kernel computes convolutions of one group, padded with zeros by numbers")
        pairs = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return cls(*((down, across) for down, across in pairs))

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def output(self, height: int, width: int) -> Pair:
        """Size of the result. Raises DataError where the image is smaller than the kernel."""
        down, across = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip((height, width), *self._pairs, strict=True)
        )
        if min(down, across) < 1:
            raise DataError(f"an image of {height}×{width} is smaller than the kernel {self.kernel}, with its padding")
        return down, across

    @property
    def numbers(self) -> tuple[int, ...]:
        """All of it, in a form compiled code takes."""
        return tuple(number for pair in self._pairs for number in pair)

    @property
    def _pairs(self) -> tuple[Pair, Pair, Pair, Pair]:
        return self.kernel, self.stride, self.padding, self.dilation
