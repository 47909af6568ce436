"""The whole numbers of a weight for which harm + price · bits is least, as far as it can be found.

The harm is ½ Σ_r gain_r · (q_r − w_r) G (q_r − w_r)ᵀ over the rows of the weight, with the inputs' second moments G: to
second order what the loss rises by, if the gradients at the layer's outputs do not depend on its inputs (Martens &
Grosse 2015, arXiv 1503.05671, eq. 1, with the diagonal alone of the outputs' factor).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cholesky

from tersenet.quantize.rates import Rates, Scan, rates

BLOCK = 64
"""Columns between which errors are handed on one by one; to later ones they go all at once."""

SWEEPS = 5
"""Over all columns, after the first, each with what indices have come to cost by then."""


@dataclass(frozen=True, eq=False)
class Harm:
    """weight [rows, columns]: the best one. curvature [rows, columns]: gain · diagonal of G. gram, where the columns'
    errors make up for each other: [parts, columns, columns], symmetric and positive definite, rows in as many parts."""

    weight: np.ndarray
    curvature: np.ndarray
    gain: np.ndarray | None = None
    gram: np.ndarray | None = None

    def of(self, weight: np.ndarray) -> float:
        """What `weight` [rows, columns] does."""
        error = weight - self.weight
        if self.gram is None or self.gain is None:
            return 0.5 * float((self.curvature * error * error).sum())
        pushed = self.push(error)
        return 0.5 * float((self.gain[:, None] * pushed * error).sum())

    def push(self, error: np.ndarray) -> np.ndarray:
        """error · G, [rows, columns]."""
        assert self.gram is not None
        return np.asarray(_parts(error, self.gram) @ self.gram).reshape(error.shape)

    @cached_property
    def factor(self) -> np.ndarray:
        """V of G = V Vᵀ, upper triangular: column k decided, V_kk² is what its error costs once all that come before
        and after make up for it (Chee et al. 2023, "QuIP", arXiv 2307.13304, eq. 3 and theorem 6: the same rounding as
        GPTQ's, Frantar et al. 2022, arXiv 2210.17323, and, column by column, that of OBS)."""
        assert self.gram is not None
        return np.stack([cholesky(g[::-1, ::-1], lower=True)[::-1, ::-1] for g in self.gram])


@dataclass(frozen=True, eq=False)
class Grid:
    """The numbers that entries may take: n · step with |index| ≤ most, none but zero where not `allowed` [rows,
    columns]. table: of the machine that tells numbers from indices (`forms.kernels.trellis`)."""

    step: float
    most: int
    allowed: np.ndarray
    table: np.ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """indices and numbers, int32 [rows, columns]; harm; bits as estimated."""

    indices: np.ndarray
    numbers: np.ndarray
    harm: float
    bits: float


def quantized(harm: Harm, grid: Grid, scan: Scan, price: float) -> Found:
    """Least harm + price · bits. With no price and no gram, the nearest numbers.

    First each entry alone, as if in Elias' gamma code; then each column in turn, the later ones making up for its
    error; then, one after the other, each column as is best with all others as they are. Bits are counted anew before
    each sweep, from what the one before has left.
    """
    found = _sweep(harm, grid, _universal(harm, grid), price, _alone)
    rounds = SWEEPS + 1 if price or harm.gram is not None else 0
    for number in range(rounds):
        costs = rates(found[0], scan, grid.most)
        found = _sweep(harm, grid, costs, price, _ahead if number == 0 else _around(found[1]))
    bits = rates(found[0], scan, grid.most).bits(found[0])
    return Found(*found, harm.of(found[1] * grid.step), bits)


@dataclass(frozen=True, eq=False)
class _Block:
    """What a sweep needs of columns begin … end: targets and base in steps [rows, columns]; coupling [parts, columns,
    columns]; curvature of the harm [rows, columns]."""

    targets: np.ndarray
    base: np.ndarray
    coupling: np.ndarray
    curvature: np.ndarray


_Way = Callable[[Harm, np.ndarray, float, int, int], _Block]
"""(harm, numbers so far, step, begin, end) → the block."""


def _alone(harm: Harm, numbers: np.ndarray, step: float, begin: int, end: int) -> _Block:
    """Errors stay where they are."""
    columns = slice(begin, end)
    targets = harm.weight[:, columns] / step
    return _Block(targets.copy(), targets, np.zeros((1, end - begin, end - begin)), harm.curvature[:, columns])


def _ahead(harm: Harm, numbers: np.ndarray, step: float, begin: int, end: int) -> _Block:
    """Later columns make up for earlier ones: the target of column k is w_k + Σ_{j<k} (w_j − q_j) V_jk / V_kk."""
    if harm.gram is None or harm.gain is None:
        return _alone(harm, numbers, step, begin, end)
    columns, diagonal = slice(begin, end), harm.factor.diagonal(axis1=1, axis2=2)[:, begin:end]
    base = harm.weight[:, columns] / step
    error = _parts(harm.weight[:, :begin] / step - numbers[:, :begin], harm.gram)
    moved = (error @ (harm.factor[:, :begin, columns] / diagonal[:, None])).reshape(base.shape)
    coupling = harm.factor[:, columns, columns] / diagonal[:, None]
    curvature = harm.gain[:, None] * np.repeat(diagonal**2, len(base) // len(harm.gram), 0)
    return _Block(base + moved, base, coupling, curvature)


def _around(numbers: np.ndarray) -> _Way:
    """All other columns, as they are by then, count: the target of column k is q_k − ((q − w) G)_k / G_kk."""

    def way(harm: Harm, now: np.ndarray, step: float, begin: int, end: int) -> _Block:
        if harm.gram is None or harm.gain is None:
            return _alone(harm, now, step, begin, end)
        columns = slice(begin, end)
        mixed = np.concatenate([now[:, :begin], numbers[:, begin:]], 1)
        error = _parts(mixed - harm.weight / step, harm.gram)
        diagonal = harm.gram.diagonal(axis1=1, axis2=2)[:, begin:end]
        base = numbers[:, columns].astype(np.float64)
        pushed = (error @ (harm.gram[:, :, columns] / diagonal[:, None])).reshape(base.shape)
        coupling = harm.gram[:, columns, columns] / diagonal[:, None]
        return _Block(base - pushed, base, coupling, harm.curvature[:, columns])

    return way


def _parts(rows: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """[rows, columns] as [parts, rows / parts, columns]."""
    return rows.reshape(len(gram), len(rows) // len(gram), rows.shape[1])


def _sweep(harm: Harm, grid: Grid, costs: Rates, price: float, way: _Way) -> tuple[np.ndarray, np.ndarray]:
    """Indices and numbers of all columns, decided in their order."""
    from tersenet.forms.kernels.trellis import Prices
    from tersenet.quantize.kernels.sweep import sweep

    shape = harm.weight.shape
    indices, numbers = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for begin in range(0, shape[1], BLOCK):
        end = min(begin + BLOCK, shape[1])
        block, columns = way(harm, numbers, grid.step, begin, end), slice(begin, end)
        zero, nonzero, kind, allowed = (
            np.ascontiguousarray(array[:, columns]) for array in (costs.zero, costs.nonzero, costs.kind, grid.allowed)
        )
        prices = Prices(zero, nonzero, nonzero, kind, costs.magnitude)
        curvature = 0.5 * grid.step**2 * block.curvature
        chosen = np.zeros((2, *zero.shape), np.int32)
        sweep(block.targets, block.base, block.coupling, curvature, allowed, price, prices, grid.table, *chosen)
        indices[:, columns], numbers[:, columns] = chosen
    return indices, numbers


def _universal(harm: Harm, grid: Grid) -> Rates:
    """A bit for zero or not, one for the sign, and |k| as Elias 1975 writes it: twice its octave, and one."""
    once = np.ones(harm.weight.shape)
    octaves = np.floor(np.log2(np.arange(1, grid.most + 1)))
    return Rates(once, 2 * once, np.zeros(once.shape, np.uint8), 2 * octaves[None] + 1)
