"""Rounding to whole numbers of steps, row by row and without the interpreter's lock. Imported only when packing.

The numbers are those of `forms/uniform.py`: float32, nearest, halves to even.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FRACTIONS = 40
"""Of the full range, as in `quantize/ranges.py`."""

COARSE = 4
"""Of these, every fourth is tried first, and then those around the best: the error has one valley, nearly always."""


@njit(nogil=True, fastmath={"reassoc", "nsz", "contract", "nnan", "arcp"}, forceinline=True)
def _gap(entry, step, low, high):  # type: ignore[no-untyped-def]
    n = np.rint(entry / step)
    n = low if n < low else n
    n = high if n > high else n
    return n * step - entry


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract", "nnan", "arcp"})
def squared_error(row, weights, step, low, high):  # type: ignore[no-untyped-def]
    """Σ f · (step · clip(round(w / step), low, high) − w)² of a row of float32, in float32 by parts; what is estimated
    here decides between steps alone, so the order of sums is left to the compiler.

    weights: f of each entry, float32; of length 0 where all are 1.
    """
    total = 0.0
    weighted = len(weights) > 0
    for begin in range(0, len(row), 4096):
        part = np.float32(0)
        if weighted:
            for i in range(begin, min(begin + 4096, len(row))):
                gap = _gap(row[i], step, low, high)
                part += weights[i] * gap * gap
        else:
            for i in range(begin, min(begin + 4096, len(row))):
                gap = _gap(row[i], step, low, high)
                part += gap * gap
        total += float(part)
    return total


@njit(cache=True, nogil=True)
def _step(least, most, levels, fraction):  # type: ignore[no-untyped-def]
    """Of a symmetric grid that covers this fraction of the range."""
    half = levels // 2
    step = max(most * fraction / np.float32(max(half - 1, 1)), -least * fraction / np.float32(half))
    return step if step > 0 else np.float32(1)


@njit(cache=True, nogil=True)
def best_step(row, weights, levels):  # type: ignore[no-untyped-def]
    """The step with the least squared error among those that cover a fortieth, two fortieths, … of the range."""
    least, most = min(row.min(), np.float32(0)), max(row.max(), np.float32(0))
    low, high = np.float32(-(levels // 2)), np.float32(levels // 2 - 1)
    tried = np.zeros(FRACTIONS + 1, np.bool_)
    best, chosen = np.inf, FRACTIONS
    for count in range(FRACTIONS, 0, -COARSE):
        tried[count] = True
        error = squared_error(row, weights, _step(least, most, levels, np.float32(count / FRACTIONS)), low, high)
        if error < best:
            best, chosen = error, count
    for count in range(min(chosen + COARSE - 1, FRACTIONS), max(chosen - COARSE, 0), -1):
        if not tried[count]:
            error = squared_error(row, weights, _step(least, most, levels, np.float32(count / FRACTIONS)), low, high)
            if error < best:
                best, chosen = error, count
    return _step(least, most, levels, np.float32(chosen / FRACTIONS))


@njit(cache=True, nogil=True)
def number_row(row, step, low, levels, symbols):  # type: ignore[no-untyped-def]
    """Symbols of a row: 0 for n = 0, then n = low … −1, then 1, 2, …, as form `uniform` has them."""
    least, most = np.float32(low), np.float32(low + levels - 1)
    for i in range(len(row)):
        n = int(np.rint(min(max(row[i] / step, least), most)))
        symbols[i] = 0 if n == 0 else n - low + (n < 0)


@njit(cache=True, nogil=True)
def round_rows(rows, weights, levels, steps, symbols):  # type: ignore[no-untyped-def]
    """Per row of float32 [r, n] the step of least error, and its symbols (uint8); weights [r, n], or [r, 0]."""
    for i in range(len(rows)):
        steps[i] = best_step(rows[i], weights[i], levels)
        number_row(rows[i], steps[i], -(levels // 2), levels, symbols[i])


@njit(cache=True, nogil=True)
def values_of(symbols, steps, low, out):  # type: ignore[no-untyped-def]
    """Rows of symbols [r, n] as float32: n · step."""
    for i in range(len(symbols)):
        step = steps[i]
        for j in range(symbols.shape[1]):
            symbol = np.int64(symbols[i, j])
            n = symbol + low - (symbol <= -low) if symbol else 0
            out[i, j] = np.float32(n) * step
