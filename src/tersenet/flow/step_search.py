"""Which grid of equal steps a large tensor is rounded to: of least error at given bits, or coarsest for an error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from tersenet.coding.lanes import MOST, Map
from tersenet.core.errors import ModelError

BAND = 1 << 20
"""Entries that are held as float32 at once, by one thread."""

SHORT = 32
"""Rows of fewer entries share one step, which would cost them a bit an entry each."""

NEAR = 0.999
"""Share of the error allowed that is enough."""

TRIES = 24


@dataclass(frozen=True)
class Grid:
    """Symbols as form `uniform` has them, uint8 or, of more than 256 levels, int32 [rows, n]; steps float32 [rows]."""

    symbols: np.ndarray
    steps: np.ndarray
    low: int
    levels: int
    axis: int


def bits_grid(tensor: torch.Tensor, bits: int, each: Map = map) -> Grid:
    """A step for each place along dimension 0: that with the least squared error, as `quantize/ranges.py` finds it.

    Raises ModelError for NaN and infinities.
    """
    from tersenet.flow.grid_kernels import round_rows

    rows = tensor.reshape(tensor.shape[0], -1)
    axis = 0 if rows.shape[1] >= SHORT else -1
    rows = rows if axis == 0 else rows.reshape(1, -1)
    symbols, steps = np.empty(rows.shape, np.uint8), np.empty(len(rows), np.float32)
    tall = max(BAND // rows.shape[1], 1)

    def work(begin: int) -> None:
        band = slice(begin, begin + tall)
        round_rows(_floats(rows[band]), 1 << bits, steps[band], symbols[band])

    for _ in each(work, range(0, len(rows), tall)):
        pass
    return Grid(symbols, steps, -(1 << bits - 1), 1 << bits, axis)


def error_grid(tensor: torch.Tensor, rmse: float, each: Map = map) -> Grid | None:
    """The largest step, one for the whole tensor, with ‖ŵ − w‖ ≤ rmse · ‖w‖, to a thousandth of the error.

    Uniform rounding followed by an entropy coder is within 0.25 bits an entry of the rate-distortion function at high
    rate (Gish and Pierce 1968, "Asymptotically efficient quantizing"), with equal steps everywhere.
    None where the tensor's own type is too coarse for that error. Raises ModelError for NaN and infinities.
    """
    flat = tensor.reshape(-1)
    parts = list(each(_moments, _bands(flat)))
    norm = sum(part[0] for part in parts) ** 0.5
    least, most = min(part[1] for part in parts), max(part[2] for part in parts)
    aim, step = rmse, _largest(flat, rmse, norm, each)
    for _ in range(TRIES):
        grid = _one_step(flat, step, least, most, each)
        if grid is None or tensor.dtype == torch.float32:
            return grid
        found = _true_error(flat, grid, each) / max(norm, 1e-300)
        if found <= rmse:
            return grid
        aim *= 0.9995 * rmse / found  # the type's own rounding comes on top
        step = _largest(flat, aim, norm, each)
    return None


def _largest(flat: torch.Tensor, rmse: float, norm: float, each: Map) -> float:
    """The step whose error is just within rmse · norm: secant steps, since the error is nearly in proportion."""
    if norm == 0:
        return 1.0
    low, high = 0.0, np.inf
    step = rmse * norm / flat.numel() ** 0.5 * 12**0.5
    for _ in range(TRIES):
        error = _error(flat, step, each) / norm
        if error <= rmse:
            low = step
            if error >= NEAR * rmse:
                break
        else:
            high = step
        step = step * (1 + NEAR) / 2 * rmse / error if error else 2 * step
        if not low < step < high:
            step = 2 * low if high == np.inf else (low * high) ** 0.5 if low else high / 2
    return low or step


def _error(flat: torch.Tensor, step: float, each: Map) -> float:
    from tersenet.flow.grid_kernels import squared_error

    wide, most = np.float32(step), np.float32(np.inf)
    return math.sqrt(sum(each(lambda band: squared_error(_floats(band), wide, -most, most), _bands(flat))))


def _one_step(flat: torch.Tensor, step: float, least: float, most: float, each: Map) -> Grid | None:
    """None if that takes more levels than 16 bits hold."""
    from tersenet.flow.grid_kernels import number_row

    wide = np.float32(step)
    low, high = int(np.rint(np.float32(least) / wide)), int(np.rint(np.float32(most) / wide))
    levels = max(high - low + 1, 2)
    if levels > 1 << 16:
        return None
    symbols = np.empty(flat.numel(), np.uint8 if levels <= MOST else np.int32)

    def work(begin: int) -> None:
        band = slice(begin, begin + BAND)
        number_row(_floats(flat[band]), wide, low, levels, symbols[band])

    for _ in each(work, range(0, flat.numel(), BAND)):
        pass
    return Grid(symbols[None], np.array([wide]), low, levels, -1)


def _true_error(flat: torch.Tensor, grid: Grid, each: Map) -> float:
    """‖ŵ − w‖ in the tensor's own type."""
    from tersenet.flow.grid_kernels import values_of

    def work(begin: int) -> float:
        symbols = grid.symbols[:, begin : begin + BAND]
        out = np.empty(symbols.shape, np.float32)
        values_of(symbols, grid.steps, grid.low, out)
        gap = torch.from_numpy(out[0]).to(flat.dtype).double() - flat[begin : begin + BAND].double()
        return float(gap.square().sum())

    return math.sqrt(sum(each(work, range(0, flat.numel(), BAND))))


def _bands(flat: torch.Tensor) -> Iterator[torch.Tensor]:
    return (flat[begin : begin + BAND] for begin in range(0, flat.numel(), BAND))


def _moments(band: torch.Tensor) -> tuple[float, float, float]:
    """Sum of squares, least, most; zero counts among them."""
    floats = _floats(band)
    return float(np.square(floats, dtype=np.float64).sum()), min(float(floats.min()), 0), max(float(floats.max()), 0)


def _floats(band: torch.Tensor) -> np.ndarray:
    found = band.detach().cpu().float().contiguous().numpy()
    if not np.isfinite(found).all():
        raise ModelError("holds NaN or infinity, which cannot be rounded; pack it with --lossless")
    return np.asarray(found)
