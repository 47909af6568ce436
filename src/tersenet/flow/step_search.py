"""Which grid of equal steps a large tensor is rounded to: of least error at given bits, or coarsest for an error."""

from __future__ import annotations

import math
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


def bits_grid(tensor: torch.Tensor, bits: int, each: Map = map, importance: torch.Tensor | None = None) -> Grid:
    """A step for each place along dimension 0: that with the least squared error, as `quantize/ranges.py` finds it.

    importance: what the squared error of each entry counts, not negative, broadcastable to the tensor; 1 if None.
    Raises ModelError for NaN and infinities.
    """
    from tersenet.flow.grid_kernels import round_rows

    rows = tensor.reshape(tensor.shape[0], -1)
    axis = 0 if rows.shape[1] >= SHORT else -1
    rows = rows if axis == 0 else rows.reshape(1, -1)
    weights = _like(rows, tensor, importance)
    symbols, steps = np.empty(rows.shape, np.uint8), np.empty(len(rows), np.float32)
    tall = max(BAND // rows.shape[1], 1)

    def work(begin: int) -> None:
        band = slice(begin, begin + tall)
        round_rows(_floats(rows[band]), _floats(weights[band]), 1 << bits, steps[band], symbols[band])

    for _ in each(work, range(0, len(rows), tall)):
        pass
    return Grid(symbols, steps, -(1 << bits - 1), 1 << bits, axis)


def error_grid(
    tensor: torch.Tensor, rmse: float, each: Map = map, importance: torch.Tensor | None = None
) -> Grid | None:
    """The largest step, one for the whole tensor, with ‖ŵ − w‖ ≤ rmse · ‖w‖, to a thousandth of the error.

    Uniform rounding followed by an entropy coder is within 0.25 bits an entry of the rate-distortion function at high
    rate (Gish and Pierce 1968, "Asymptotically efficient quantizing"), with equal steps everywhere.

    importance: as in `bits_grid`; norms are then √Σ f·w².
    None where the tensor's own type is too coarse for that error. Raises ModelError for NaN and infinities.
    """
    search = _Search(tensor, importance, each)
    aim, step = rmse, search.largest(rmse)
    for _ in range(TRIES):
        grid = search.grid(step)
        if grid is None or tensor.dtype == torch.float32:
            return grid
        found = search.true_error(grid)
        if found <= rmse:
            return grid
        aim *= 0.9995 * rmse / found  # the type's own rounding comes on top
        step = search.largest(aim)
    return None


class _Search:
    """For one step of a whole tensor. Errors are relative to the norm of the tensor."""

    def __init__(self, tensor: torch.Tensor, importance: torch.Tensor | None, each: Map) -> None:
        self.each, self.flat = each, tensor.reshape(-1)
        self.weights = _like(self.flat[None], tensor, importance)[0]
        self.bands = [slice(begin, begin + BAND) for begin in range(0, len(self.flat), BAND)]
        moments = list(each(self._moments, self.bands))
        self.norm = math.sqrt(sum(part[0] for part in moments))
        self.least, self.most = min(part[1] for part in moments), max(part[2] for part in moments)

    def largest(self, rmse: float) -> float:
        """The step whose error is just within rmse: secant steps, since the error is nearly in proportion."""
        if self.norm == 0:
            return 1.0
        low, high = 0.0, np.inf
        step = rmse * self.norm / len(self.flat) ** 0.5 * 12**0.5
        for _ in range(TRIES):
            error = self._error(step) / self.norm
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

    def grid(self, step: float) -> Grid | None:
        """None if that takes more levels than 16 bits hold."""
        from tersenet.flow.grid_kernels import number_row

        wide = np.float32(step)
        low, high = int(np.rint(np.float32(self.least) / wide)), int(np.rint(np.float32(self.most) / wide))
        levels = max(high - low + 1, 2)
        if levels > 1 << 16:
            return None
        symbols = np.empty(len(self.flat), np.uint8 if levels <= MOST else np.int32)

        def work(band: slice) -> None:
            number_row(_floats(self.flat[band]), wide, low, levels, symbols[band])

        for _ in self.each(work, self.bands):
            pass
        return Grid(symbols[None], np.array([wide]), low, levels, -1)

    def true_error(self, grid: Grid) -> float:
        """In the tensor's own type."""
        from tersenet.flow.grid_kernels import values_of

        def work(band: slice) -> float:
            symbols = grid.symbols[:, band]
            out = np.empty(symbols.shape, np.float32)
            values_of(symbols, grid.steps, grid.low, out)
            squares = (torch.from_numpy(out[0]).to(self.flat.dtype).double() - self.flat[band].double()).square_()
            return float((squares * self.weights[band] if len(self.weights) else squares).sum())

        return math.sqrt(sum(self.each(work, self.bands))) / max(self.norm, 1e-300)

    def _error(self, step: float) -> float:
        from tersenet.flow.grid_kernels import squared_error

        wide, most = np.float32(step), np.float32(np.inf)

        def work(band: slice) -> float:
            return float(squared_error(_floats(self.flat[band]), _floats(self.weights[band]), wide, -most, most))

        return math.sqrt(sum(self.each(work, self.bands)))

    def _moments(self, band: slice) -> tuple[float, float, float]:
        """Sum of squares, weighted; least, most; zero counts among them."""
        floats, weights = _floats(self.flat[band]), _floats(self.weights[band])
        squares = np.square(floats, dtype=np.float64)
        total = float((squares * weights if weights.size else squares).sum())
        return total, min(float(floats.min()), 0), max(float(floats.max()), 0)


def _like(rows: torch.Tensor, tensor: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
    """Importance of each entry of `rows`, float32 and at most 1; of no columns if there is none."""
    if importance is None:
        return torch.empty(len(rows), 0)
    return (importance / importance.max()).float().expand(tensor.shape).reshape(rows.shape)


def _floats(band: torch.Tensor) -> np.ndarray:
    found = band.detach().cpu().float().contiguous().numpy()
    if not np.isfinite(found).all():
        raise ModelError("holds NaN or infinity, which cannot be rounded; pack it with --lossless")
    return np.asarray(found)
