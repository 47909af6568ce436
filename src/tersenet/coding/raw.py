"""Fixed-width bit-packing: ⌈log₂ alphabet⌉ bits for each symbol, most significant bit first, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tersenet.coding.base import CodingError, Encoded, Plan, register
from tersenet.core.code import Symbols

_BLOCK = 1 << 17  # symbols packed at once (a multiple of 8), which bounds the memory for loose bits


@dataclass(frozen=True)
class Raw:
    name: str = "raw"
    id: int = 0
    family: str = "raw"
    thorough: bool = False

    def plan(self, symbols: Symbols) -> Plan:
        width = width_of(symbols.alphabet)
        size = (len(symbols.values) * width + 7) // 8
        return Plan(size, lambda: Encoded(self.name, pack(symbols.values, width), 0, 0, size), size)

    def decode(self, payload: bytes, length: int, alphabet: int, shape: tuple[int, ...] = ()) -> np.ndarray:
        width = width_of(alphabet)
        if len(payload) != (length * width + 7) // 8:
            raise CodingError(f"{length} symbols of {width} bits do not take {len(payload)} bytes")
        values = unpack(payload, length, width)
        if length and int(values.max()) >= alphabet:
            raise CodingError(f"a symbol lies outside [0, {alphabet})")
        return values


def width_of(alphabet: int) -> int:
    return max(alphabet - 1, 0).bit_length()


def pack(values: np.ndarray, width: int) -> bytes:
    """int32 [n] → ⌈n·width / 8⌉ bytes."""
    if width == 8:
        return values.astype(np.uint8).tobytes()
    if width == 16:
        return values.astype(">u2").tobytes()
    shifts = np.arange(width - 1, -1, -1, dtype=np.int32)
    blocks = (values[start : start + _BLOCK, None] >> shifts & 1 for start in range(0, len(values), _BLOCK))
    return b"".join(np.packbits(bits.astype(np.uint8)).tobytes() for bits in blocks)


def unpack(payload: bytes, length: int, width: int) -> np.ndarray:
    if width == 8:
        return np.frombuffer(payload, dtype=np.uint8).astype(np.int32)
    if width == 16:
        return np.frombuffer(payload, dtype=">u2").astype(np.int32)
    data = np.frombuffer(payload, dtype=np.uint8)
    values = np.zeros(length, dtype=np.int32)
    for start in range(0, length if width else 0, _BLOCK):
        count = min(_BLOCK, length - start)
        block = data[start * width // 8 : ((start + count) * width + 7) // 8]
        bits = np.unpackbits(block, count=count * width).reshape(count, width)
        for column in range(width):
            values[start : start + count] = values[start : start + count] << 1 | bits[:, column]
    return values


register(Raw())
