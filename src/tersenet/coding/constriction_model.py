"""The bridge to constriction: exact models, byte strings instead of words, and its exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tersenet.coding.base import CodingError
from tersenet.coding.frequency import Frequencies

T = TypeVar("T")


def categorical(table: Frequencies) -> Any:
    """A model whose fixed-point probabilities are exactly `table.integers()`.

    constriction gives each of m symbols one unit of 2²⁴ and shares the other 2²⁴ − m in proportion to the floats it
    gets. Given the integers minus one, whose sum is exactly 2²⁴ − m, its scale is exactly 1 and every partial sum an
    integer below 2²⁴: no rounding happens, so nothing depends on the machine.
    """
    import constriction

    return constriction.stream.model.Categorical((table.integers() - 1).astype(np.float64), lazy=False, perfect=False)


def to_bytes(words: np.ndarray) -> bytes:
    """uint32 words, little-endian, without the zero bytes at the end."""
    return words.astype("<u4").tobytes().rstrip(b"\0")


def to_words(data: bytes) -> np.ndarray:
    """Inverse of `to_bytes`; data that end in a zero byte were not written by it."""
    if data.endswith(b"\0"):
        raise CodingError("a stream ends in a zero byte")
    return np.frombuffer(data + b"\0" * (-len(data) % 4), dtype="<u4").astype(np.uint32)


def guarded(action: Callable[[], T]) -> T:
    """Runs a decoder; what constriction raises for bytes that fit no message becomes CodingError."""
    try:
        return action()
    except (AssertionError, ValueError) as error:
        raise CodingError(f"the stream fits no message: {error}") from error
