"""LEB128 integers, and a cursor that never reads past its end."""

from __future__ import annotations

from tersenet.core.errors import ArtifactError

LIMIT = 2**63
"""Integers in a file lie in [0, LIMIT)."""


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the high bit set on all but the last (LEB128, DWARF 4, section 7.6).

    Raises ArtifactError outside [0, 2^63).
    """
    if not 0 <= value < LIMIT:
        raise ArtifactError(f"the number {value} does not fit into a file; it must lie in [0, 2^63)")
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def zigzag(value: int) -> int:
    """0, -1, 1, -2, 2, … → 0, 1, 2, 3, 4, …: so that small negative numbers take few bytes."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(value: int) -> int:
    return value >> 1 if value % 2 == 0 else -(value >> 1) - 1


class Cursor:
    """A place in `data` that moves on as things are read and stops at `end`."""

    def __init__(self, data: memoryview, position: int, end: int) -> None:
        self.data, self.position, self.end = data, position, end

    @property
    def left(self) -> int:
        return self.end - self.position

    def take(self, count: int, what: str) -> memoryview:
        """The next `count` bytes; raises ArtifactError if there are fewer."""
        if count > self.left:
            raise ArtifactError(f"malformed: {what} needs {count} bytes where {self.left} are left")
        self.position += count
        return self.data[self.position - count : self.position]

    def varint(self, what: str) -> int:
        """The next integer; raises ArtifactError if it does not end, is 2^63 or more, or has a needless zero byte."""
        value = 0
        for shift in range(0, 63, 7):
            digit = self.take(1, what)[0]
            value |= (digit & 127) << shift
            if digit < 128:
                if digit == 0 and shift:
                    raise ArtifactError(f"malformed: {what} is written with a needless zero byte")
                return value
        raise ArtifactError(f"malformed: {what} is 2^63 or more")
