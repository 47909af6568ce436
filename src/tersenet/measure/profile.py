"""What each layer of a network costs in one pass, summed up over the operators that run in it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import nn

from tersenet.core.profile import Cost, LayerCost
from tersenet.forms.slots import type_of
from tersenet.measure.energy import energy, on_chip
from tersenet.measure.macs import Macs, macs_of
from tersenet.measure.memory import live_bytes
from tersenet.measure.operations import Operation, Pass
from tersenet.measure.walk import walk


@dataclass(frozen=True)
class Layer:
    """A module whose own code computes something. operations: theirs, with the bytes alive while each runs."""

    name: str
    kind: str
    calls: int
    outputs: tuple[int, int]
    operations: tuple[tuple[Operation, int], ...]
    weights: frozenset[int]

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(op.name for op, _ in self.operations if op.macs is None))


@dataclass(frozen=True)
class Network:
    """A pass, layer by layer in the order in which they first run; each weight belongs to the first that reads it."""

    found: Pass
    layers: tuple[Layer, ...]
    peak: int

    @property
    def macs(self) -> Macs:
        return macs_of(self.found)

    @property
    def weight_bytes(self) -> int:
        """Of all parameters and buffers, in memory."""
        return sum(weight.bytes for weight in self.found.weights)


def profile(model: nn.Module, *inputs: Any) -> Network:
    """Watch one pass of `model(*inputs)` in eval mode; the model is left as it was."""
    found = walk(model, *inputs)
    alive = live_bytes(found)
    running: dict[str, list[tuple[Operation, int]]] = {}
    for operation, live in zip(found.operations, alive, strict=True):
        running.setdefault(operation.layer, []).append((operation, live))
    taken: set[int] = set()
    layers = []
    for name, operations in running.items():
        own = frozenset(place for operation, _ in operations for place in operation.weights) - taken
        taken |= own
        outputs = found.outputs.get(name, (0, 0))
        kind = _kind(model, name, operations)
        layers.append(Layer(name, kind, found.calls[name], outputs, tuple(operations), own))
    return Network(found, tuple(layers), max(alive, default=0))


def _kind(model: nn.Module, name: str, operations: list[tuple[Operation, int]]) -> str:
    cls = type_of(model.get_submodule(name))
    if cls is not nn.Module:
        return cls.__name__
    return ", ".join(dict.fromkeys(operation.name.removeprefix("aten::") for operation, _ in operations))


def costs(
    network: Network,
    sram: int = 0,
    stored: Mapping[str, int] | None = None,
    integer: Set[str] = frozenset(),
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Cost]:
    """The cost of each layer by its name.

    sram: bytes on chip, for the energy estimate. stored: tensor → bytes in which a file holds it; its weights are then
    taken to travel so, and products with zero are not counted. integer: tensors of whole numbers whose layers are
    taken to get whole numbers as input. seconds: measured, by layer.
    """
    held = [w.bytes if stored is None else stored.get(w.name, 0) for w in network.found.weights]
    weights_stay, activations_stay = on_chip(sum(held), network.peak, sram)
    found = {}
    for layer in network.layers:
        own = [network.found.weights[place] for place in layer.weights]
        read = frozenset(place for operation, _ in layer.operations for place in operation.weights)
        as_run = sum(network.found.weights[place].bytes for place in read)
        operations = [operation for operation, _ in layer.operations]
        known = not layer.unknown
        macs, nonzero = sum(op.macs or 0 for op in operations), sum(op.nonzero for op in operations)
        weight_traffic = sum(op.weight_bytes for op in operations)
        activation_traffic = sum(op.read_bytes + op.written_bytes for op in operations)
        found[layer.name] = Cost(
            macs=macs if known else None,
            nonzero=nonzero if known else None,
            parameters=sum(weight.entries for weight in own if weight.parameter),
            outputs=layer.outputs[0],
            output_bytes=layer.outputs[1],
            live_bytes=max(live for _, live in layer.operations),
            bytes=sum(held[place] for place in layer.weights),
            weight_traffic=weight_traffic,
            activation_traffic=activation_traffic,
            energy=energy(
                macs if stored is None else nonzero,
                weight_traffic * (sum(held[place] for place in read) / as_run if as_run else 1.0),
                activation_traffic,
                integer=any(weight.name in integer for weight in own),
                weights_on_chip=weights_stay,
                activations_on_chip=activations_stay,
            )
            if known
            else None,
            seconds=(seconds or {}).get(layer.name),
        )
    return found


def beside(
    dense: Network,
    dense_costs: Mapping[str, Cost],
    file: Network | None = None,
    file_costs: Mapping[str, Cost] | None = None,
) -> tuple[LayerCost, ...]:
    """Layers of the dense network beside those of the file's, by name; those that only the latter has come last."""
    layers = {layer.name: layer for network in (file, dense) if network for layer in network.layers}
    names = dict.fromkeys([*(layer.name for layer in dense.layers), *layers])
    return tuple(
        LayerCost(
            name=name,
            kind=layers[name].kind,
            calls=layers[name].calls,
            unknown=layers[name].unknown,
            dense=dense_costs.get(name),
            file=(file_costs or {}).get(name),
        )
        for name in names
    )
