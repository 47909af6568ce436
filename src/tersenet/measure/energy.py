"""Energy of a pass, estimated from what single operations take on a chip. Nothing here is measured.

The table is Horowitz's (Computing's energy problem, ISSCC 2014; 45 nm) as Han et al. 2015 give it (Learning both
weights and connections, figure 1). What is counted, and what not:

- a multiply-accumulate is one multiplication and one addition of 32 bits, in floating point; in integers only where the
  caller says that weights and activations are both whole numbers, and narrower ones are taken to cost as much.
- every weight comes from DRAM once for each time that a layer runs, in 32-bit words, unless all weights fit on the
  chip; a compressed weight is taken to travel as it is stored, and to be decoded on the chip for nothing.
- every operator reads its inputs and writes its results in DRAM, unless all that is alive at once fits on the chip.
- not counted: registers, control, leakage, element-wise arithmetic, fusion of operators.
"""

from __future__ import annotations

from tersenet.core.profile import Energy

ADD = {"integer": 0.1, "float": 0.9}
MULTIPLY = {"integer": 3.1, "float": 3.7}
SRAM, DRAM = 5.0, 640.0
"""Picojoules: of a 32-bit addition and multiplication, and of 32 bits from or to memory."""
WORD = 4
"""Bytes of a 32-bit word."""


def energy(
    macs: int,
    weight_bytes: float,
    activation_bytes: float,
    *,
    integer: bool = False,
    weights_on_chip: bool = False,
    activations_on_chip: bool = False,
) -> Energy:
    """Of `macs` multiply-accumulates and the bytes that are moved for them, in picojoules."""
    kind = "integer" if integer else "float"
    return Energy(
        arithmetic=macs * (MULTIPLY[kind] + ADD[kind]),
        weights=weight_bytes / WORD * (SRAM if weights_on_chip else DRAM),
        activations=activation_bytes / WORD * (SRAM if activations_on_chip else DRAM),
    )


def on_chip(weight_bytes: int, activation_bytes: int, sram: int) -> tuple[bool, bool]:
    """Whether all weights fit into `sram` bytes, and whether the activations fit into what those leave."""
    weights = 0 < weight_bytes <= sram
    return weights, 0 < activation_bytes <= sram - weights * weight_bytes
