"""The whole array, zeros included, as one row of symbols."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tersenet.coding.bits import BitReader
from tersenet.coding.histogram import histogram_of, zero_split
from tersenet.coding.static import Arrangement
from tersenet.core.code import Symbols


@dataclass(frozen=True)
class Direct:
    name: str = "direct"

    def arrangements(self, symbols: Symbols) -> Iterator[Arrangement]:
        found = histogram_of(symbols)

        def split(bits: Sequence[float]) -> tuple[float, float]:
            return zero_split(found) if symbols.zero else (0.0, 1.0)

        yield Arrangement((found,), lambda: (symbols.values,), lambda writer: None, split)

    def shapes(self, reader: BitReader, length: int, alphabet: int) -> list[tuple[int, int]]:
        return [(length, alphabet)]

    def join(self, rows: list[np.ndarray], length: int, alphabet: int) -> np.ndarray:
        return rows[0]


DIRECT = Direct()
