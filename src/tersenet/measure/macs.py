"""Multiply-accumulates of one forward pass, counted operator by operator as torch dispatches them.

Counted: matrix products, convolutions (grouped, dilated and transposed too), scaled dot-product attention and the
gates of recurrent cells. A look-up in an embedding costs none. Everything without such a product (adding a bias,
activations, norms, pooling) counts zero, as in the published totals. An operator whose name says that it is a product
and that is not known here is reported as unknown, not as zero.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tersenet.measure.operations import Pass
from tersenet.measure.walk import walk


@dataclass(frozen=True)
class Macs:
    """total: of the whole pass. layers: of each module that computes products itself, by its name ('' is the model).

    nonzero: those whose weight is not zero, which says nothing about time; products without a weight (of queries and
        keys, say) count in full.
    unknown: operator → how often it ran. If there are any, `total` is too small by what they cost.
    """

    total: int
    layers: dict[str, int] = field(default_factory=dict)
    nonzero: int = 0
    unknown: dict[str, int] = field(default_factory=dict)


def count_macs(model: nn.Module, *inputs: Any) -> Macs:
    """Multiply-accumulates of `model(*inputs)` in eval mode; the model is left as it was.

    With one input the batch axis should be 1 for the cost of one example. Products that a parametrization needs to
    form its weight are left out: they are computed once, not for each input.
    """
    return macs_of(walk(model, *inputs))


def macs_of(found: Pass) -> Macs:
    layers: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for operation in found.operations:
        if operation.macs is None:
            unknown[operation.name] += 1
        elif operation.macs:
            layers[operation.layer] += operation.macs
    nonzero = sum(operation.nonzero for operation in found.operations)
    return Macs(sum(layers.values()), dict(layers), nonzero, dict(unknown))
