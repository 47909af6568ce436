"""`Code`: one weight as integers and small tables. It is what coders compress and all that a file knows of a method."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

COUNTED_AT_ONCE = 2**20
"""Counting takes eight bytes for each symbol that it looks at; so many at a time."""


@dataclass(frozen=True)
class Symbols:
    """Integers in [0, alphabet), one dimension, int32: an array of `shape` in row-major order, if that is known.

    `zero` says that symbol 0 stands for a weight of exactly zero, which a coder may use: it then stores where the
    other symbols are and what they are, in one stream or in two.
    """

    values: np.ndarray
    alphabet: int
    zero: bool = False
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.values.dtype != np.int32:
            raise ValueError(f"symbols must be one row of int32, not {self.values.dtype} with {self.values.ndim} axes")
        if self.values.size and not 0 <= int(self.values.min()) <= int(self.values.max()) < self.alphabet:
            raise ValueError(f"symbols must lie in [0, {self.alphabet})")

    @cached_property
    def counted(self) -> tuple[np.ndarray, np.ndarray]:
        """The symbols that occur, ascending (int32 [m]), and how often (int64 [m]): counted once, for all coders."""
        return counted(self.values, self.alphabet)


def counted(values: np.ndarray, alphabet: int) -> tuple[np.ndarray, np.ndarray]:
    """What `Symbols.counted` is, in time O(len(values)), also where the alphabet is far larger than the array."""
    if alphabet > max(1 << 16, 4 * len(values)):
        used, counts = np.unique(values, return_counts=True)
        return used.astype(np.int32), counts.astype(np.int64)
    counts = np.zeros(int(values.max(initial=-1)) + 1, np.int64)
    for first in range(0, len(values), COUNTED_AT_ONCE):
        counts += np.bincount(values[first : first + COUNTED_AT_ONCE], minlength=len(counts))
    used = np.flatnonzero(counts)
    return used.astype(np.int32), counts[used]


@dataclass(frozen=True)
class Code:
    """A weight as its form encodes it; `forms.decode(code)` gives back exactly the weight the layer computes with.

    form: name in the registry of forms ('dense', 'masked', 'shared', …).
    shape: of the decoded weight.
    streams: named integer arrays ('index', 'mask', …), compressed by an entropy coder.
    tables: named arrays of numbers ('values', 'codebook', …), stored in their own dtype; bfloat16 as its uint16 bits.
    dtype: of the decoded weight, in torch's spelling ('float32', 'bfloat16', 'int64', …).
    options: the few small integers a form needs besides (bits, group size, …).
    """

    form: str
    shape: tuple[int, ...]
    streams: dict[str, Symbols] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)
    dtype: str = "float32"
