"""What every coder is: a name, a number for the file, a plan with a price, and a decoder that trusts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tersenet.core.code import Symbols
from tersenet.core.registry import Registry


class CodingError(ValueError):
    """A payload that no encoder wrote, or symbols that a coder cannot take."""


@dataclass(frozen=True)
class Encoded:
    """A coded row of symbols. The three parts sum to `len(payload)`; all sizes are in bytes.

    table_bytes: frequencies or code lengths, and the few numbers beside them.
    position_bytes: what it costs to say where the nonzero symbols are.
    value_bytes: what it costs to say which symbols they are.
    """

    coder: str
    payload: bytes
    table_bytes: int
    position_bytes: int
    value_bytes: int


@dataclass(frozen=True)
class Plan:
    """An encoding that is chosen but not written yet: `write()` never gives fewer than `least` bytes, and about
    `expected`, where that is known."""

    least: int
    write: Callable[[], Encoded]
    expected: float = 0.0


class Coder(Protocol):
    """One way to write symbols. `id` stands in files: it is never changed or used again."""

    @property
    def name(self) -> str: ...

    @property
    def id(self) -> int: ...

    @property
    def family(self) -> str:
        """The name a recipe may give for the smallest among several variants."""
        ...

    @property
    def thorough(self) -> bool:
        """Takes its time: used where it or `best` is asked for, not for `auto`."""
        ...

    def plan(self, symbols: Symbols) -> Plan | None:
        """None if this coder does not fit these symbols."""
        ...

    def decode(self, payload: bytes, length: int, alphabet: int, shape: tuple[int, ...] = ()) -> np.ndarray:
        """int32 array [length], each in [0, alphabet); `shape` is that of the symbols.

        Raises CodingError for a payload that is not well-formed. Time and memory are bounded by `length`, `alphabet`
        and `len(payload)`, whatever the payload says.
        """
        ...


CODERS: Registry[Coder] = Registry("coder")


def register(coder: Coder) -> None:
    if any(CODERS[name].id == coder.id for name in CODERS):
        raise ValueError(f"two coders have the id {coder.id}")
    CODERS.register(coder.name)(coder)


def coder_id(name: str) -> int:
    """Raises RecipeError for an unknown name."""
    return CODERS[name].id


def coder_name(number: int) -> str:
    """Raises CodingError for a number that this version does not know."""
    for name in CODERS:
        if CODERS[name].id == number:
            return name
    raise CodingError(f"there is no coder with the number {number}")
