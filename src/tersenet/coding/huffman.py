"""Canonical Huffman codes, as Deep Compression uses them (arXiv:1510.00149, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tersenet.coding import prefix
from tersenet.coding.base import CodingError, register
from tersenet.coding.bits import BitReader
from tersenet.coding.direct import DIRECT
from tersenet.coding.gaps import GAPS
from tersenet.coding.histogram import Histogram
from tersenet.coding.prefix import CodeLengths
from tersenet.coding.static import StaticCoder

_QUICK_BITS = 11  # words up to this length are decoded by one look-up in a table that stays in the first-level cache
_READ_AHEAD = 4  # bytes that the decoder may look beyond the end


@dataclass(frozen=True)
class Huffman:
    """The rows follow each other bit by bit. A row with a single symbol takes no bits."""

    name: str = "huffman"
    exact: bool = True

    def fit(self, found: Histogram) -> CodeLengths:
        return prefix.fit(found)

    def read(self, reader: BitReader, length: int, alphabet: int) -> CodeLengths:
        return prefix.read(reader, length, alphabet)

    def pack(self, rows: Sequence[tuple[np.ndarray, CodeLengths]]) -> bytes:
        coded = [(indices, table.lengths) for indices, table in rows if len(table.used) > 1]
        if not coded:
            return b""
        from tersenet.coding.prefix_kernels import write_words

        size = sum(int(np.bincount(indices, minlength=len(lengths)) @ lengths) for indices, lengths in coded)
        out = np.zeros((size + 7) // 8 + 1, dtype=np.uint8)
        position = 0
        for indices, lengths in coded:
            position = write_words(indices, prefix.canonical(lengths).codes, lengths, out, position)
        return out[: (size + 7) // 8].tobytes()

    def unpack(self, data: bytes, rows: Sequence[tuple[int, CodeLengths]]) -> list[np.ndarray]:
        padded = np.frombuffer(data + bytes(_READ_AHEAD), dtype=np.uint8)
        decoded, position = [], 0
        for length, table in rows:
            row = np.zeros(length, dtype=np.int32)
            if len(table.used) > 1:
                position = _read(padded, 8 * len(data), position, table.lengths, row)
            decoded.append(row)
        if (position + 7) // 8 != len(data) or (position % 8 and data[-1] & (0xFF >> position % 8)):
            raise CodingError("the stream holds more than its symbols")
        return decoded


def _read(padded: np.ndarray, end: int, position: int, lengths: np.ndarray, row: np.ndarray) -> int:
    from tersenet.coding.prefix_kernels import read_words

    code = prefix.canonical(lengths)
    quick_bits = min(code.longest, _QUICK_BITS)
    sorted_lengths = lengths[code.ranked]
    per_length = np.arange(code.longest + 2)
    ranks = np.searchsorted(sorted_lengths, per_length)  # the first rank of each length
    edges = np.append(code.starts, 1 << code.longest)[ranks]
    position = read_words(
        padded, end, position, _quick(code, sorted_lengths, quick_bits), quick_bits,
        edges[1:], edges, ranks, code.ranked, code.longest, row,
    )  # fmt: skip
    if position < 0:
        raise CodingError("the payload ends too early")
    return int(position)


def _quick(code: prefix.CanonicalCode, sorted_lengths: np.ndarray, quick_bits: int) -> np.ndarray:
    short = sorted_lengths <= quick_bits
    entries = np.repeat(code.ranked[short] << 5 | sorted_lengths[short], 1 << (quick_bits - sorted_lengths[short]))
    return np.pad(entries.astype(np.int32), (0, (1 << quick_bits) - len(entries)))


HUFFMAN = Huffman()
register(StaticCoder(1, DIRECT, HUFFMAN))
register(StaticCoder(2, GAPS, HUFFMAN))
