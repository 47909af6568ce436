"""Which inputs of a layer its output can do without, and the weights that make up for their loss: regression on what
the layer reads and what it ought to give.

All that is needed are second moments. A layer is Y = X Wᵀ with X (rows, columns) and W (outputs, columns); a unit is a
set of columns (the k·k places of a channel, the positions of a flattened one) and gives Z_i = X_i W_iᵀ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

TOLERANCE = 1e-8
"""Coordinate descent stops when no coordinate of β moves by more, relative to the largest."""

SWEEPS = 1000
"""Most passes of coordinate descent over all coordinates."""

HALVINGS = 40
"""Of the interval in which the λ lies that leaves as many coordinates as asked."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over rows, in double precision; of each part of a grouped convolution, of which a plain layer has one.

    gram: XᵀX / n, (parts, columns, columns). cross: XᵀY / n, (parts, columns, outputs). power: ‖Y‖² / n.
    x_mean (parts, columns), y_mean (parts, outputs): what was subtracted before, zero without an intercept.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    power: float
    x_mean: torch.Tensor
    y_mean: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor, intercept: bool) -> Moments:
        """x: (parts, rows, columns). y: (parts, rows, outputs). intercept: the layer has a bias that is free."""
        x, y, rows = x.double(), y.double(), x.shape[1]
        x_mean, y_mean = x.mean(1) * intercept, y.mean(1) * intercept
        x, y = x - x_mean[:, None], y - y_mean[:, None]
        return cls(x.mT @ x / rows, x.mT @ y / rows, float(y.square().sum()) / rows, x_mean, y_mean)

    def error(self, weight: torch.Tensor) -> float:
        """‖Y − X Wᵀ‖² / n for W (parts, outputs, columns), with the best intercept if there is one."""
        w = weight.double().mT
        return float(self.power - 2 * (w * self.cross).sum() + (w * (self.gram @ w)).sum())

    def intercept(self, weight: torch.Tensor) -> torch.Tensor:
        """ȳ − W x̄, (parts, outputs)."""
        return self.y_mean - (weight.double() @ self.x_mean[..., None]).squeeze(-1)


@dataclass(frozen=True, eq=False)
class Objective:
    """½‖T − Σ β_i Z_i‖² / n as ½βᵀGβ − cᵀβ + const: G_ij = ⟨Z_i, Z_j⟩ / n, c_i = ⟨Z_i, T⟩ / n over units i, j."""

    gram: torch.Tensor
    cross: torch.Tensor

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.gram + other.gram, self.cross + other.cross)


def objective(moments: Moments, weight: torch.Tensor, units: torch.Tensor, count: int) -> Objective:
    """He, Zhang & Sun 2017, arXiv 1707.06168, eq. 2, first term, with W as it is.

    weight: (parts, outputs, columns). units: (columns), the unit that each column belongs to, or −1 for columns that
    are not up for choice: what they give is taken from the target first, T = Y − X_rest W_restᵀ. count: of units.
    """
    w = weight.double()
    rest = w * (units < 0)
    cross = moments.cross - moments.gram @ rest.mT
    member = torch.nn.functional.one_hot(units + 1, count + 1)[:, 1:].to(w)  # (columns, units)
    pairs = (moments.gram * (w.mT @ w)).sum(0)
    return Objective(member.T @ pairs @ member, member.T @ (cross * w.mT).sum((0, 2)))


def lasso(problem: Objective, penalty: float, start: torch.Tensor | None = None) -> torch.Tensor:
    """β that minimises ½βᵀGβ − cᵀβ + λ‖β‖₁, (units), by cyclic coordinate descent (Friedman, Hastie & Tibshirani 2010,
    "Regularization Paths for Generalized Linear Models via Coordinate Descent", §2.2, covariance updates).

    With G and c of `Objective`, λ is scikit-learn's alpha over rows × outputs, times the outputs.
    """
    gram, cross = problem.gram.cpu().numpy(), problem.cross.cpu().numpy()
    beta = np.zeros_like(cross) if start is None else start.cpu().numpy().copy()
    left = cross - gram @ beta  # ⟨Z_i, residual⟩
    for _ in range(SWEEPS):
        before = beta.copy()
        for i in np.flatnonzero((beta != 0) | (np.abs(left) > penalty)):  # at the others nothing would move
            new = _soft(left[i] + gram[i, i] * beta[i], penalty) / gram[i, i] if gram[i, i] > 0 else 0.0
            left -= gram[:, i] * (new - beta[i])
            beta[i] = new
        if np.abs(beta - before).max() <= TOLERANCE * np.abs(beta).max():
            break
    return torch.from_numpy(beta).to(problem.gram.device)


def _soft(value: float, threshold: float) -> float:
    return float(np.sign(value) * max(abs(value) - threshold, 0.0))


def by_lasso(problem: Objective, keep: int) -> torch.Tensor:
    """The `keep` units that stay, ascending: λ is raised until ‖β‖₀ ≤ keep (He et al. 2017, §3.1, (i)).

    λ is then narrowed down by halving; where no λ leaves exactly as many (equal channels), the rest are those with the
    largest |β| just below it, the earlier of equals.
    """
    high = float(problem.cross.abs().max()) or 1.0
    low = high / 2
    none = torch.zeros_like(problem.cross)
    more, fewer = lasso(problem, low), none
    while _count(more) <= keep and low > high * 1e-12:
        high, fewer, low = low, more, low / 4
        more = lasso(problem, low, more)
    for _ in range(HALVINGS):
        if _count(fewer) == keep or _count(more) <= keep:
            break
        middle = (low * high) ** 0.5
        beta = lasso(problem, middle, more)
        if _count(beta) > keep:
            low, more = middle, beta
        else:
            high, fewer = middle, beta
    return _first(fewer, more, keep)


def by_thinet(problem: Objective, keep: int) -> torch.Tensor:
    """The `keep` units that stay, ascending: one after another goes the one with which ‖Σ_gone Z_i‖² grows least (Luo,
    Wu & Lin 2017, "ThiNet", arXiv 1707.06342, eq. 6, algorithm 1)."""
    gone = torch.zeros_like(problem.cross, dtype=torch.bool)
    sums = torch.zeros_like(problem.cross)
    for _ in range(len(gone) - keep):
        growth = (2 * sums + problem.gram.diagonal()).masked_fill(gone, torch.inf)
        unit = int(growth.argmin())
        gone[unit] = True
        sums = sums + problem.gram[unit]
    return (~gone).nonzero().squeeze(1)


def reconstructed(moments: Moments, weight: torch.Tensor, kept: torch.Tensor, ridge: float) -> torch.Tensor:
    """W on the columns `kept` that minimises ‖Y − X Wᵀ‖² / n + ρ‖W − W₀‖², zero elsewhere (He et al. 2017, eq. 3).

    weight: W₀ (parts, outputs, columns), which what the data do not settle is held to. kept: bool (columns). ridge: ρ
    over the mean of the diagonal of XᵀX / n. The answer has the shape and type of `weight`.
    """
    before = weight[..., kept].double().mT
    gram, cross = moments.gram[:, kept][:, :, kept], moments.cross[:, kept]
    found = torch.zeros_like(weight)
    found[..., kept] = (before + torch.linalg.solve(_held(gram, ridge), cross - gram @ before)).mT.to(weight)
    return found


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer that reads the units up for choice.

    weight: (parts, outputs, columns). units: (columns), the unit of each or −1. kept: bool (columns), False for what is
    gone already.
    """

    moments: Moments
    weight: torch.Tensor
    units: torch.Tensor
    kept: torch.Tensor


def by_surgeon(layers: Sequence[Layer], count: int, keep: int, ridge: float) -> torch.Tensor:
    """The `keep` of `count` units that stay, ascending: one after another goes the one without which the least-squares
    error of all layers, their weights refitted each time, grows least.

    Optimal brain surgeon on blocks of columns (Hassibi & Stork 1993, "Second order derivatives for network pruning",
    eq. 5): with P the inverse of XᵀX / n, removing the block S costs tr(W_S P_SS⁻¹ W_Sᵀ). A unit that is a linear
    combination of others costs nothing, which a choice at fixed weights does not see.
    """
    surgeries = [_Surgery(layer, count, ridge) for layer in layers]
    left = torch.arange(count)
    while len(left) > keep:
        costs = torch.stack([surgery.costs(left) for surgery in surgeries]).sum(0)
        at = int(costs.argmin())
        for surgery in surgeries:
            surgery.remove(int(left[at]))
        left = torch.cat([left[:at], left[at + 1 :]])
    return left


class _Surgery:
    """The weights of one layer and the inverse of its Gram matrix, as units go."""

    def __init__(self, layer: Layer, count: int, ridge: float) -> None:
        kept, moments = layer.kept, layer.moments
        units = layer.units[kept]
        self.columns = torch.stack([(units == unit).nonzero().squeeze(1) for unit in range(count)])  # (units, width)
        self.inverse = torch.linalg.inv(_held(moments.gram[:, kept][:, :, kept], ridge))
        self.weight = reconstructed(moments, layer.weight.double(), kept, ridge)[..., kept]

    def costs(self, left: torch.Tensor) -> torch.Tensor:
        """Of each unit in `left`: what the mean squared error grows by."""
        at = self.columns[left.to(self.columns.device)]
        blocks = self.inverse[:, at[:, :, None], at[:, None, :]]  # (parts, units, width, width)
        own = self.weight[:, :, at].movedim(1, -1)  # (parts, units, width, outputs)
        grown: torch.Tensor = (own * torch.linalg.solve(blocks, own)).sum((0, 2, 3))
        return grown.cpu()

    def remove(self, unit: int) -> None:
        at = self.columns[unit]
        rows = torch.linalg.solve(self.inverse[:, at[:, None], at], self.inverse[:, at])  # P_SS⁻¹ P_S:
        self.weight = self.weight - self.weight[..., at] @ rows
        self.inverse = self.inverse - self.inverse[:, :, at] @ rows


def _held(gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """XᵀX / n + ρI with ρ = ridge · mean of the diagonal."""
    strength = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    return gram + strength[:, None, None] * torch.eye(gram.shape[1]).to(gram)


def _count(beta: torch.Tensor) -> int:
    return int(beta.count_nonzero())


def _first(fewer: torch.Tensor, more: torch.Tensor, keep: int) -> torch.Tensor:
    """Units in `fewer` first, then by |β| in `more`."""
    rank = more.abs() + (fewer != 0) * (more.abs().max() + 1)
    order = torch.sort(rank, descending=True, stable=True).indices[:keep]
    return order.sort().values
