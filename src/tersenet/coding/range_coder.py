"""Range coding (Martin, 1979; Pasco, 1976) through constriction: like ANS, but first in, first out."""

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
class Range:
    """All rows share one coder. Rows with a single symbol cost nothing."""

    name: str = "range"
    exact: bool = False

    def fit(self, found: Histogram) -> Frequencies:
        return frequency.fit(found)

    def read(self, reader: BitReader, length: int, alphabet: int) -> Frequencies:
        return frequency.read(reader, length, alphabet)

    def pack(self, rows: Sequence[tuple[np.ndarray, Frequencies]]) -> bytes:
        import constriction

        coder = constriction.stream.queue.RangeEncoder()
        for indices, table in rows:
            if len(table.used) > 1:
                coder.encode(indices, categorical(table))
        return to_bytes(coder.get_compressed())

    def unpack(self, data: bytes, rows: Sequence[tuple[int, Frequencies]]) -> list[np.ndarray]:
        import constriction

        coder = guarded(lambda: constriction.stream.queue.RangeDecoder(to_words(data)))

        def row(length: int, table: Frequencies) -> np.ndarray:
            if len(table.used) == 1:
                return np.zeros(length, dtype=np.int32)
            return guarded(lambda: np.asarray(coder.decode(categorical(table), length)))

        decoded = [row(length, table) for length, table in rows]
        if not coder.maybe_exhausted():
            raise CodingError("the stream holds more than its symbols")
        return decoded


RANGE = Range()
register(StaticCoder(5, DIRECT, RANGE))
register(StaticCoder(6, GAPS, RANGE))
