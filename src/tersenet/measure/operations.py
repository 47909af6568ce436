"""What a forward pass consists of: the operators that ran, and the weights that they read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Operation:
    """One operator that ran, views excepted.

    layer: name of the innermost module that was running; of an operator outside all layers that reads the weight of a
        module without a forward (as stored graphs have them), that module.
    macs: multiply-accumulates; None where the operator is unknown. nonzero: those whose weight is not zero.
    reads, writes: storages of activations. weights: places in `Pass.weights` of those that it reads.
    weight_bytes, read_bytes, written_bytes: what goes through memory for it.
    """

    layer: str
    name: str
    macs: int | None
    nonzero: int
    reads: frozenset[int]
    writes: frozenset[int]
    weights: frozenset[int]
    weight_bytes: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer, or ('' by name) a weight that a parametrization formed."""

    name: str
    entries: int
    bytes: int
    parameter: bool


@dataclass
class Pass:
    """operations: in order. sizes: storage → bytes. given, returned: storages of the model's inputs and outputs.

    outputs: layer → (entries, bytes) of the tensors that its calls returned. calls: how often it ran.
    weights: all of the model, shared ones once.
    """

    operations: list[Operation] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    given: frozenset[int] = frozenset()
    returned: frozenset[int] = frozenset()
    outputs: dict[str, tuple[int, int]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    weights: list[Weight] = field(default_factory=list)

    def count(self, layer: str, results: list[torch.Tensor]) -> None:
        """One more call, which returned `results`."""
        self.calls[layer] += 1
        entries, size = self.outputs.get(layer, (0, 0))
        entries, size = entries + sum(r.numel() for r in results), size + sum(map(bytes_of, results))
        self.outputs[layer] = entries, size


def bytes_of(tensor: torch.Tensor) -> int:
    """Of its entries; what was expanded without a copy counts as often as it is seen."""
    return tensor.numel() * tensor.element_size()
