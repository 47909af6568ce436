"""Entropy coding of integer arrays: `encode(symbols, "auto")` gives bytes, `decode` gives the integers back."""

from tersenet.coding import ans, context, huffman, lanes, range_coder, raw  # noqa: F401  (each registers its coders)
from tersenet.coding.base import CODERS, Coder, CodingError, Encoded, coder_id, coder_name
from tersenet.coding.histogram import entropy_bytes
from tersenet.coding.select import decode, encode

__all__ = [
    "CODERS",
    "Coder",
    "CodingError",
    "Encoded",
    "coder_id",
    "coder_name",
    "decode",
    "encode",
    "entropy_bytes",
]
