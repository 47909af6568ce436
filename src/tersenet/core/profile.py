"""`Profile`: what a network costs layer by layer, as plain values. `measure` finds them and the report shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from tersenet.core.config import Config

Bound = Literal["arithmetic", "weights", "activations"]
"""What a layer waits for at best: multiplications, its weights from memory, or activations from and to memory."""


class Energy(Config):
    """An estimate in picojoules of one pass, from a table of what single operations take; nothing is measured."""

    arithmetic: float
    weights: float = Field(description="reading weights from memory")
    activations: float = Field(description="reading and writing activations")

    @property
    def total(self) -> float:
        return self.arithmetic + self.weights + self.activations


class Cost(Config):
    """One layer, or several, in one pass over the whole batch."""

    macs: int | None = Field(description="multiply-accumulates; None where an operator is unknown")
    nonzero: int | None = Field(description="of these, with a weight other than zero: not a measure of time")
    parameters: int = Field(description="entries of the parameters it reads first")
    outputs: int = Field(description="entries of the tensors it returns")
    output_bytes: int
    live_bytes: int = Field(description="activations alive at once while it runs, at most")
    bytes: int = Field(description="its parameters and buffers: in memory, or of a file on disk")
    weight_traffic: int = Field(description="bytes of weights that its operators read, as they compute here")
    activation_traffic: int = Field(description="bytes of activations that its operators read and write")
    energy: Energy | None = None
    seconds: float | None = Field(None, description="measured, without the layers inside it")

    @property
    def traffic(self) -> int:
        return self.weight_traffic + self.activation_traffic


class LayerCost(Config):
    """A module whose own code computes something ('' is the model): dense, and as the file holds it."""

    name: str
    kind: str = Field(description="its class")
    calls: int = 1
    unknown: tuple[str, ...] = Field((), description="its operators whose multiplications could not be counted")
    dense: Cost | None = Field(None, description="None: only the network of the file has it")
    file: Cost | None = Field(None, description="None: there is no file, or the layer has gone")


class Roof(Config):
    """What this machine can do at most, measured (Williams, Waterman and Patterson 2009, Roofline)."""

    flops: float = Field(gt=0, description="floating-point operations per second; a multiply-accumulate is two")
    bandwidth: float = Field(gt=0, description="bytes per second from and to memory")

    def seconds(self, cost: Cost) -> float | None:
        """The least time, if all that is read and written comes from memory; what is still in a cache comes faster."""
        return None if cost.macs is None else max(2 * cost.macs / self.flops, cost.traffic / self.bandwidth)

    def bound(self, cost: Cost) -> Bound | None:
        """Which of the three it is that the least time is spent on."""
        if cost.macs is None:
            return None
        if 2 * cost.macs / self.flops >= cost.traffic / self.bandwidth:
            return "arithmetic"
        return "weights" if cost.weight_traffic > cost.activation_traffic else "activations"


def intensity(cost: Cost) -> float | None:
    """Floating-point operations for each byte moved; None where that cannot be told."""
    return None if cost.macs is None or not cost.traffic else 2 * cost.macs / cost.traffic


class Side(Config):
    """A whole network: the dense one, or that of the file."""

    peak_bytes: int = Field(description="activations alive at once, at most")
    bytes: int = Field(description="parameters and buffers in memory, or the file on disk")
    seconds: float | None = Field(None, description="measured, of the whole pass")


class Profile(Config):
    """A network in one pass over `batch` inputs."""

    model: str
    inputs: tuple[str, ...] = Field(description="shape and type of each, batch axis first")
    batch: int
    sram: int = Field(0, description="bytes on chip that the energy estimate counts with")
    integer: bool = Field(False, description="it takes activations for quantized where the weights are whole numbers")
    machine: str
    dense: Side
    file: Side | None = None
    roof: Roof | None = None
    layers: tuple[LayerCost, ...]
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> Side:
        """Of the network at hand: the file's, where there is one."""
        return self.file or self.dense

    def cost(self, layer: LayerCost) -> Cost | None:
        """Of the network at hand; None where that has no such layer any more."""
        return layer.file if self.file else layer.dense

    @property
    def costs(self) -> tuple[Cost, ...]:
        return tuple(cost for cost in map(self.cost, self.layers) if cost is not None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Operators of any layer whose multiplications could not be counted."""
        return tuple(dict.fromkeys(operator for layer in self.layers for operator in layer.unknown))


def total(costs: Iterable[Cost]) -> Cost:
    """All of them as one: sums, the most that is alive at once, and what is known of multiplications and energy.

    `outputs` sums up what all layers return.
    """
    rows = tuple(costs)
    energies = [row.energy for row in rows if row.energy is not None]
    parts = ("arithmetic", "weights", "activations")
    times = [row.seconds for row in rows if row.seconds is not None]
    return Cost(
        macs=sum(row.macs or 0 for row in rows),
        nonzero=sum(row.nonzero or 0 for row in rows),
        **{key: sum(getattr(row, key) for row in rows) for key in _SUMMED},
        live_bytes=max((row.live_bytes for row in rows), default=0),
        energy=Energy(**{part: sum(getattr(e, part) for e in energies) for part in parts}) if energies else None,
        seconds=sum(times) if times else None,
    )


_SUMMED = ("parameters", "outputs", "output_bytes", "bytes", "weight_traffic", "activation_traffic")
