"""The fewest bits that describe weights to within a squared error, when groups of them differ in spread and importance.

Shannon's lower bound: a source of entropy power N = 2^(2h) / 2πe (h: differential entropy in bits) needs at least
½·log2(N / D) bits a number for a mean squared error of D (Cover and Thomas 2006, §10.3 and problem 10.8; exact for
Gaussians). Over groups of n_g numbers whose squared errors weigh f_g, the sum of these bounds is least where every
group has the same weighted error θ, except groups that cannot have so much:

    D_g = min(θ / f_g, N_g),   R = Σ n_g · max(0, ½·log2(N_g / D_g)),   D = Σ n_g · f_g · D_g.

("Reverse water-filling", Kolmogorov 1956; Cover and Thomas 2006, theorem 10.3.3, here with weights.) Any code, for any
division of the error among the groups, takes at least R bits on average over weights drawn from these densities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Allocation:
    """How the bound divides error and bits.

    level: θ, the weighted error that every group with a rate has. distortions: D_g, [groups]. rates: bits a number of
    each group, [groups]. bits: R. distortion: Σ n_g·f_g·D_g.
    """

    level: float
    distortions: np.ndarray
    rates: np.ndarray
    bits: float
    distortion: float

    @property
    def slope(self) -> float:
        """−dD/dR = 2·ln 2·θ: by how much one more bit lowers the weighted error."""
        return 2 * math.log(2) * self.level


def entropy_power(entropy: float) -> float:
    """N = 2^(2h) / 2πe: the variance of the Gaussian that has this differential entropy (bits)."""
    return math.exp2(2 * entropy) / (2 * math.pi * math.e)


def water_fill(counts: np.ndarray, powers: np.ndarray, weights: np.ndarray, distortion: float) -> Allocation:
    """The bound at a total weighted squared error of at most `distortion` > 0.

    counts n_g, powers N_g ≥ 0, weights f_g ≥ 0: [groups] each. A group whose error weighs nothing, or that has no
    density, takes no bits.
    """
    counts, powers, tops = _checked(counts, powers, weights)
    if not distortion > 0:
        raise ValueError(f"the distortion must be positive, but is {distortion}")
    # D(θ) = Σ n·min(θ, top) rises in straight pieces between the sorted tops
    order = np.argsort(tops)
    filled = np.concatenate([[0.0], np.cumsum((counts * tops)[order])])
    open_ = np.concatenate([np.cumsum(counts[order][::-1])[::-1], [0.0]])
    at_tops = filled[1:] + tops[order] * open_[1:]
    piece = int(np.searchsorted(at_tops, distortion))
    level = (distortion - filled[piece]) / open_[piece] if piece < len(tops) else float(tops.max(initial=0.0))
    return _at(level, counts, powers, tops)


def water_fill_rate(counts: np.ndarray, powers: np.ndarray, weights: np.ndarray, bits: float) -> Allocation:
    """The bound read the other way: the least weighted squared error that `bits` ≥ 0 in total could reach."""
    counts, powers, tops = _checked(counts, powers, weights)
    if bits < 0:
        raise ValueError(f"the rate must not be negative, but is {bits}")
    used = tops > 0
    order = np.argsort(-tops[used])
    n, logs = counts[used][order], np.log2(tops[used][order])
    if not len(n):
        return _at(0.0, counts, powers, tops)
    # with the k highest groups open, R = ½·Σ n·(log2 top − log2 θ)
    opened, summed = np.cumsum(n), np.cumsum(n * logs)
    needed = 0.5 * (summed - opened * logs)  # R when θ has come down to each top
    last = int(np.searchsorted(needed, bits, side="right")) - 1
    level = 2.0 ** ((summed[last] - 2 * bits) / opened[last])
    return _at(float(level), counts, powers, tops)


def linear_model_rate(weight_covariance: np.ndarray, input_covariance: np.ndarray, distortion: float) -> float:
    """Bits for the weights w ~ N(0, Σ_w) of a linear model w·x, so that E (w·x − ŵ·x)² ≤ distortion over x too.

    Gao et al. 2019, "Rate distortion for model compression", arXiv 1810.06401, theorem 1: with E xxᵀ = diag(λ),
    R(D) ≥ ½·log2 det Σ_w − Σ ½·log2 D_i, D_i = min(μ / λ_i, E w_i²), Σ λ_i·D_i = D, an equality where Σ_w is diagonal.
    Here for any two covariances, and exact: the error is that of the Gaussian vector Σ_x^½·w, whose rate is reverse
    water-filling over the eigenvalues of Σ_x^½·Σ_w·Σ_x^½. Both [d, d], symmetric, positive semi-definite.
    """
    values, vectors = np.linalg.eigh(np.asarray(input_covariance, np.float64))
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    eigenvalues = np.maximum(np.linalg.eigvalsh(root @ np.asarray(weight_covariance, np.float64) @ root), 0)
    ones = np.ones_like(eigenvalues)
    return water_fill(ones, eigenvalues, ones, distortion).bits


def predicted_loss_change(fisher: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """½·Σ F_i·(w_i − ŵ_i)²: what a quadratic model of the loss around w says, its gradient taken as zero and its
    curvature as the diagonal F. All of one shape."""
    return 0.5 * float(np.sum(fisher * np.square(np.asarray(before, np.float64) - np.asarray(after, np.float64))))


def _checked(counts: np.ndarray, powers: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, powers, and their weighted errors at a rate of zero, f_g·N_g."""
    counts, powers, weights = (np.asarray(array, np.float64) for array in (counts, powers, weights))
    if not counts.shape == powers.shape == weights.shape or counts.ndim != 1:
        raise ValueError("counts, powers and weights must be one row each, as long as each other")
    if min(counts.min(initial=1), powers.min(initial=0), weights.min(initial=0)) < 0 or not counts.all():
        raise ValueError("counts must be positive, powers and weights not negative")
    return counts, powers, powers * weights


def _at(level: float, counts: np.ndarray, powers: np.ndarray, tops: np.ndarray) -> Allocation:
    some = tops > level
    share = np.divide(level, tops, out=np.ones_like(tops), where=some)  # D_g / N_g
    rates = -0.5 * np.log2(share)
    reached = float(np.sum(counts * tops * share))
    return Allocation(float(level), powers * share, rates, float(np.sum(counts * rates)), reached)
