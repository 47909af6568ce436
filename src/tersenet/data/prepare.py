"""From stored numbers to what the model sees: augmentation, then scale and normalisation, on whole batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from tersenet.core.recipe import Augment
from tersenet.data.augment import augment

UNCHANGED = Augment()


@dataclass(frozen=True)
class Prepare:
    """x → (x − mean) / deviation per channel, in the units the data is stored in; mean None: only to [0, 1].

    mean, deviation: [C], for images [B, C, H, W] and rows [B, C]. uint8 always becomes float32.
    """

    mean: torch.Tensor | None = None
    deviation: torch.Tensor | None = None
    augment: Augment = UNCHANGED

    def __call__(self, inputs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        if generator is not None and inputs.ndim == 4 and self.augment != UNCHANGED:
            inputs = augment(inputs, self.augment, generator)
        if self.mean is None or self.deviation is None:
            return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        dtype = inputs.dtype if inputs.is_floating_point() else torch.float32
        centred = inputs.to(dtype) - self.mean.view(shape).to(dtype)
        return centred.mul_((1 / self.deviation).view(shape).to(dtype))


def statistics(chunks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per channel over all of `chunks`, each [B, C, …]; float64 [C] both.

    A channel that never changes gets deviation 1, so that it becomes zero and not NaN.
    """
    count, shift = 0, torch.zeros(1, dtype=torch.float64)
    total = square = torch.zeros(1, dtype=torch.float64)
    for chunk in chunks:
        axes = [axis for axis in range(chunk.ndim) if axis != 1]
        exact = chunk.double()
        if count == 0:  # squares of numbers far from zero would swallow the deviation; whole, so that bytes stay exact
            shift = exact.mean(axes).round()
        exact = exact - shift.view(-1, *[1] * (chunk.ndim - 2))
        count += chunk.numel() // chunk.shape[1]
        total, square = total + exact.sum(axes), square + exact.square().sum(axes)
    mean = total / count
    variance = square / count - mean.square()
    constant = variance <= 1e-12 * square / count
    return mean + shift, torch.where(constant, 1.0, variance.clamp_min(0).sqrt())
