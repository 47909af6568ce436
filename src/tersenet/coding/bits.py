"""Bits, most significant first, and exponential Golomb codes over whole arrays at once.

A block of Golomb codes keeps the unary parts of all numbers together, then all suffixes, so that both directions are a
few array operations instead of a loop over numbers.
"""

from __future__ import annotations

import numpy as np

from tersenet.coding.base import CodingError

_ORDER_BITS = 3
_ALL_ZERO = 7  # the order that says: every number of the block is 0, nothing follows
_MAX_BIT_LENGTH = 32


class BitWriter:
    """Collects bits; `bytes()` pads the last byte with zeros."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self.length = 0

    def put(self, bits: np.ndarray) -> None:
        """`bits`: uint8 array of zeros and ones."""
        self._parts.append(bits)
        self.length += len(bits)

    def number(self, value: int, width: int) -> None:
        self.put(np.array([value >> place & 1 for place in reversed(range(width))], dtype=np.uint8))

    def numbers(self, values: np.ndarray) -> None:
        """A block of integers in [0, 2³¹) in exponential Golomb codes of the best order."""
        order, _ = _best_order(values)
        self.number(order, _ORDER_BITS)
        if order != _ALL_ZERO:
            self.put(_golomb(values, order))

    def bytes(self) -> bytes:
        return np.packbits(np.concatenate(self._parts)).tobytes() if self._parts else b""


class BitReader:
    """Reads what BitWriter wrote. Raises CodingError at the end of the data; unpacks only what is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, dtype=np.uint8)
        self.position = 0

    @property
    def left(self) -> int:
        return 8 * len(self._data) - self.position

    def rest(self) -> bytes:
        """The whole bytes that follow; the bits that pad the current byte must be zero."""
        padding = -self.position % 8
        if self.take(padding).any():
            raise CodingError("the bits after a table are not zero")
        return self._data[self.position // 8 :].tobytes()

    def take(self, count: int) -> np.ndarray:
        bits = self._peek(count)
        if len(bits) < count:
            raise CodingError("the payload ends too early")
        self.position += count
        return bits

    def number(self, width: int) -> int:
        return int("".join(map(str, self.take(width).tolist())) or "0", 2)

    def numbers(self, count: int) -> np.ndarray:
        """int64 array [count] of a block written by `BitWriter.numbers`."""
        order = self.number(_ORDER_BITS)
        if order == _ALL_ZERO:
            return np.zeros(count, dtype=np.int64)
        widths = self._unary(count) + order  # suffix widths
        if widths.max(initial=0) >= _MAX_BIT_LENGTH:
            raise CodingError("a number in a table has more than 32 bits")
        suffixes = _from_fields(self.take(int(widths.sum())), widths)
        return np.asarray((np.int64(1) << widths) + suffixes - (1 << order))

    def _peek(self, count: int) -> np.ndarray:
        first, skip = divmod(self.position, 8)
        window = self._data[first : first + (skip + count + 7) // 8]
        return np.unpackbits(window)[skip : skip + count]

    def _unary(self, count: int) -> np.ndarray:
        """How many zeros stand before each of the next `count` ones."""
        if count > self.left:
            raise CodingError("the payload ends too early")
        window = 4 * count + 64
        while True:
            ones = np.flatnonzero(self._peek(window))[:count]
            if len(ones) == count:
                break
            if window >= self.left:
                raise CodingError("the payload ends too early")
            window *= 2
        self.position += int(ones[-1]) + 1 if count else 0
        return np.asarray(np.diff(ones, prepend=-1) - 1)


def zigzag(values: np.ndarray) -> np.ndarray:
    """0, −1, 1, −2, … → 0, 1, 2, 3, …"""
    return np.where(values >= 0, 2 * values, -2 * values - 1)


def unzigzag(values: np.ndarray) -> np.ndarray:
    return np.where(values % 2 == 0, values // 2, -(values + 1) // 2)


def _bit_length(values: np.ndarray) -> np.ndarray:
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def golomb_bits(values: np.ndarray) -> int:
    """What `BitWriter.numbers(values)` adds."""
    return _ORDER_BITS + _best_order(values)[1]


def _best_order(values: np.ndarray) -> tuple[int, int]:
    """The order with the fewest bits, and how many they are."""
    if not values.any():
        return _ALL_ZERO, 0
    orders = np.arange(_ALL_ZERO)
    sizes = (2 * _bit_length(values[:, None] + (1 << orders)) - orders - 1).sum(axis=0)
    best = int(np.argmin(sizes))
    return best, int(sizes[best])


def _golomb(values: np.ndarray, order: int) -> np.ndarray:
    shifted = values.astype(np.int64) + (1 << order)
    widths = _bit_length(shifted)
    ends = np.cumsum(widths - order)
    unary = np.zeros(int(ends[-1]), dtype=np.uint8)
    unary[ends - 1] = 1
    return np.concatenate([unary, _fields(shifted, widths - 1)])


def _fields(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The lowest `widths[i]` bits of each value, one after the other."""
    starts = np.cumsum(widths) - widths
    bits = np.zeros(int(widths.sum()), dtype=np.uint8)
    for place in range(int(widths.max(initial=0))):
        inside = widths > place
        bits[starts[inside] + place] = (values[inside] >> (widths[inside] - 1 - place)) & 1
    return bits


def _from_fields(bits: np.ndarray, widths: np.ndarray) -> np.ndarray:
    starts = np.cumsum(widths) - widths
    values = np.zeros(len(widths), dtype=np.int64)
    for place in range(int(widths.max(initial=0))):
        inside = widths > place
        values[inside] = 2 * values[inside] + bits[starts[inside] + place]
    return values
