"""Asymmetric numeral systems (Duda, arXiv:1311.2540) through constriction: within a byte of what its model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tersenet.coding import frequency
from tersenet.coding.base import CodingError, register
from tersenet.coding.bits import BitReader
from tersenet.coding.constriction_model import categorical, guarded, to_bytes, to_words
from tersenet.coding.direct import DIRECT
from tersenet.coding.frequency import Frequencies
from tersenet.coding.gaps import GAPS
from tersenet.coding.histogram import Histogram
from tersenet.coding.static import StaticCoder


@dataclass(frozen=True)
class Ans:
    """All rows share one coder, so that its state is written once. Rows with a single symbol cost nothing."""

    name: str = "ans"
    exact: bool = False  # symbols met while the state is still empty can be free

    def fit(self, found: Histogram) -> Frequencies:
        return frequency.fit(found)

    def read(self, reader: BitReader, length: int, alphabet: int) -> Frequencies:
        return frequency.read(reader, length, alphabet)

    def pack(self, rows: Sequence[tuple[np.ndarray, Frequencies]]) -> bytes:
        import constriction

        coder = constriction.stream.stack.AnsCoder()
        for indices, table in reversed(rows):  # a stack: what is pushed last comes out first
            if len(table.used) > 1:
                coder.encode_reverse(indices, categorical(table))
        return to_bytes(coder.get_compressed())

    def unpack(self, data: bytes, rows: Sequence[tuple[int, Frequencies]]) -> list[np.ndarray]:
        import constriction

        coder = guarded(lambda: constriction.stream.stack.AnsCoder(to_words(data)))

        def row(length: int, table: Frequencies) -> np.ndarray:
            if len(table.used) == 1:
                return np.zeros(length, dtype=np.int32)
            return guarded(lambda: np.asarray(coder.decode(categorical(table), length)))

        decoded = [row(length, table) for length, table in rows]
        if not coder.is_empty():
            raise CodingError("the stream holds more than its symbols")
        return decoded


ANS = Ans()
register(StaticCoder(3, DIRECT, ANS))
register(StaticCoder(4, GAPS, ANS))
