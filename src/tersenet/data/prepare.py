"""From stored numbers to what the model sees: augmentation, then scale and normalisation, on whole batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
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
    count, shift, total, square = 0, np.zeros(1), np.zeros(1), np.zeros(1)
    for chunk in chunks:  # with NumPy, on one thread, so that the sums do not depend on how many threads there are
        numbers = chunk.movedim(1, 0).flatten(1)  # [C, numbers]
        exact = (numbers.float() if chunk.dtype == torch.bfloat16 else numbers).numpy().astype(np.float64)
        if count == 0:  # squares of numbers far from zero would swallow the deviation; whole, so that bytes stay exact
            shift = exact.mean(1).round()
        exact -= shift[:, None]
        count += exact.shape[1]
        total, square = total + exact.sum(1), square + np.einsum("cn,cn->c", exact, exact)
    mean = total / count
    variance = np.maximum(square / count - mean * mean, 0)
    deviation = np.where(variance <= 1e-12 * square / count, 1, np.sqrt(variance))
    return torch.from_numpy(mean + shift), torch.from_numpy(deviation)
