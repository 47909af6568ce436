"""Minimum description length: how many bits say all labels to somebody who has the inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TwoPart:
    """First the model, then the labels by the model, in bits; `uniform`: the labels without any model, n·log2 K.

    A model whose total is below `uniform` has found something in the data; of two models, the one with the smaller
    total has found more for what it costs (Rissanen 1978; Grünwald 2007, "The Minimum Description Length Principle").
    """

    model: float
    labels: float
    uniform: float

    @property
    def total(self) -> float:
        return self.model + self.labels


@dataclass(frozen=True)
class Prequential:
    """sizes: labels in each block. losses: nats a label of each block after the first, which is coded uniformly."""

    sizes: tuple[int, ...]
    losses: tuple[float, ...]
    classes: int

    @property
    def bits(self) -> float:
        return prequential_bits(self.sizes, self.losses, self.classes)


def two_part(file_bytes: int, mean_loss: float, examples: int, classes: int) -> TwoPart:
    """8·file_bytes + Σ −log2 p(y|x): `mean_loss` is the mean cross-entropy in nats of the model that the file holds, on
    the `examples` whose labels are to be told, each one of `classes`."""
    return TwoPart(8.0 * file_bytes, examples * mean_loss / math.log(2), examples * math.log2(classes))


def prequential_bits(sizes: Sequence[int], losses: Sequence[float], classes: int) -> float:
    """Bits for all labels when each block is coded by the model trained on the blocks before; no weights are sent.

    Blier and Ollivier 2018, "The description length of deep learning models", arXiv 1802.07044, §2.4:
    L = t₁·log2 K + Σ_s Σ_{i = t_s + 1}^{t_{s+1}} −log2 p_θ(t_s)(y_i | x_i). Sender and receiver train alike.

    sizes: labels in each block, the first one included. losses: mean cross-entropy in nats on each block after the
    first, of the model trained on all before it; the first block is coded uniformly.
    """
    if len(losses) != len(sizes) - 1:
        raise ValueError(f"{len(sizes)} blocks need {len(sizes) - 1} losses, not {len(losses)}: the first has none")
    later = sum(size * loss for size, loss in zip(sizes[1:], losses, strict=True))
    return sizes[0] * math.log2(classes) + later / math.log(2)


def doubling(examples: int, first: int) -> tuple[int, ...]:
    """Sizes of blocks, each but the last as long as all before it, which hold `examples` together."""
    sizes, seen = [min(first, examples)], min(first, examples)
    while seen < examples:
        sizes.append(min(seen, examples - seen))
        seen += sizes[-1]
    return tuple(sizes)
