"""Codes of few values as one small book of numbers and, for each entry, the number of its value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ModelError
from tersenet.forms.codebook import from_tables
from tersenet.forms.form import stream, table

LARGEST = 256
"""Values in a book at most, zero with them, so that the numbers of 4 to 8 bits of the literature suffice."""


@dataclass(frozen=True)
class Levels:
    """A weight as a matrix, dimension 0 by all others.

    index: [rows · columns], integers; 0 is a weight of exactly zero. book: float32 [values], book[0] = 0.
    scale: float32 [rows], by which the values of a row are multiplied, or None.
    """

    index: np.ndarray
    book: np.ndarray
    rows: int
    columns: int
    scale: np.ndarray | None = None


def levels_of(code: Code) -> Levels:
    """The entries of a code of form shared, ternary, binary, uniform or masked by the numbers of their values.

    Raises ModelError where the form has no book of at most 256 values for the weight, or for each row but for a scale.
    """
    maker = {"masked": _masked, "shared": _shared, "ternary": _signs, "binary": _signs, "uniform": _steps}.get(
        code.form
    )
    if maker is None:
        raise ModelError(f"a weight of form '{code.form}' has no book of values")
    rows = code.shape[0] if code.shape else 1
    index, book, scale = maker(code)
    if len(book) > LARGEST:
        raise ModelError(f"a weight of {len(book)} values has too many for codes of 8 bits; share them first")
    if scale is not None and len(scale) != 1 and code.options.get("axis") != 0:
        raise ModelError(f"a weight of form '{code.form}' with scales along its inputs has no book of values for a row")
    held = None if scale is None else np.broadcast_to(scale, rows).astype(np.float32)
    return Levels(index, book.astype(np.float32), rows, math.prod(code.shape) // max(rows, 1), held)


Found = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Index, book and scales."""


def _masked(code: Code) -> Found:
    kept, values = stream(code, "mask").values, table(code, "values").float().numpy()
    book, numbers = np.unique(values, return_inverse=True)
    index = np.zeros(len(kept), np.int32)
    index[kept != 0] = numbers + 1
    return index, np.concatenate([[0], book]), None


def _shared(code: Code) -> Found:
    return _with_zero(stream(code, "index"), from_tables(code).float().numpy(), None)


def _signs(code: Code) -> Found:
    """The negative value, then the positive one."""
    values, scale = np.array([-1, 1]), None
    if "positive" in code.tables:
        held = [table(code, name).float().numpy() for name in ("negative", "positive")]
        if len(held[0]) > 1:
            raise ModelError(f"a weight of form '{code.form}' with two values for each row has no one book of values")
        values = np.concatenate(held)
    elif "scale" in code.tables:
        scale = table(code, "scale").float().numpy()
    return _with_zero(stream(code, "sign"), values, scale)


def _steps(code: Code) -> Found:
    """The negative n, then the positive ones; their steps are scales."""
    symbols = stream(code, "index")
    lows = code.tables.get("low", np.array([code.options.get("low", 0)]))
    if (lows != lows[0]).any():
        raise ModelError("a weight of form 'uniform' whose rows begin at different numbers has no one book of values")
    low = int(lows[0])
    numbers = np.array([*range(low, 0), *range(1, low + symbols.alphabet)])
    return _with_zero(symbols, numbers, from_tables(code).float().numpy())


def _with_zero(symbols: Symbols, values: np.ndarray, scale: np.ndarray | None) -> Found:
    """0 in front of the values, where none of the symbols stands for it yet too."""
    return symbols.values + (not symbols.zero), np.concatenate([[0], values]), scale


MAKERS: dict[str, Callable[[Code], Found]] = {
    "binary": _signs,
    "masked": _masked,
    "shared": _shared,
    "ternary": _signs,
    "uniform": _steps,
}
