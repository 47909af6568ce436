"""How much of a matrix is more than noise: empirical variational Bayesian matrix factorization, in closed form."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np
from scipy.optimize import brentq, minimize_scalar

GRID = 400
"""Noise variances that are tried before the best of them is refined: the free energy may have several minima."""


def rank_of(values: np.ndarray, rows: int, columns: int, noise: float | None = None) -> int:
    """Number of singular values that are signal, by the global analytic solution of empirical VB matrix factorization.

    Nakajima, Sugiyama, Babacan & Tomioka 2013, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix
    Factorization", JMLR 14, theorems 2 and 3: of a matrix [L, M], L ≤ M, of noise variance σ², a component stays if its
    singular value is above σ·√(M·x̲), x̲ = (1 + τ̲)(1 + α/τ̲), α = L/M. σ² minimises the free energy where it is not given.

    values: all min(L, M) singular values, the largest first.
    """
    short, long = sorted((rows, columns))
    gamma = np.asarray(values, dtype=np.float64)
    if noise is None:
        noise = noise_variance(gamma, short, long)
    rounding = gamma.max(initial=0) * long * np.finfo(np.float64).eps
    return int((gamma > max(sqrt(noise * long * limit(short / long)), rounding)).sum())


def limit(alpha: float) -> float:
    """x̲: the least γ²/(M·σ²) that is signal. τ̲ is the zero of Φ(τ) + Φ(τ/α), Φ(z) = log(1 + z)/z − 1/2."""

    def phi(z: float) -> float:
        return float(np.log1p(z) / z - 0.5)

    tau = brentq(lambda t: phi(t) + phi(t / alpha), 1e-12, 3.0)  # 2.5129·√α, nearly
    return float((1 + tau) * (1 + alpha / tau))


def noise_variance(values: np.ndarray, short: int, long: int) -> float:
    """σ² of least free energy (theorem 3): a search in one variable between bounds. 0 for a matrix without noise."""
    squares = values**2
    alpha, most = short / long, squares.sum() / (short * long)
    bound = limit(alpha)
    head = min(ceil(short / (1 + alpha)) - 1, len(squares) - 1)
    least = max(squares[head] / (long * bound), squares[head:].mean() / long)
    if least <= 1e-14 * most:
        return 0.0
    if most <= least:
        return float(most)

    def energy(logarithm: float) -> float:
        return _energy(squares / (long * np.exp(logarithm)), alpha, bound)

    grid = np.linspace(np.log(least), np.log(most), GRID)
    best = int(np.argmin([energy(each) for each in grid]))
    between = (grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)])
    return float(np.exp(minimize_scalar(energy, bounds=between, method="bounded").x))


def _energy(x: np.ndarray, alpha: float, bound: float) -> float:
    """Σ ψ₀(x) + θ(x > x̲)·ψ₁(x), of x = γ²/(M·σ²): free energy as a function of σ², up to constants."""
    inside = x[x > bound]
    spread = inside - (1 + alpha)
    tau = 0.5 * (spread + np.sqrt(np.maximum(spread**2 - 4 * alpha, 0)))
    signal = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    floor = np.finfo(np.float64).tiny
    return float((x - np.log(np.maximum(x, floor))).sum() + signal.sum())


def marchenko_pastur_edge(short: int, long: int) -> float:
    """(1 + √α)²: γ²/(M·σ²) of the largest singular value of noise alone, in the limit of large matrices."""
    return (1 + sqrt(short / long)) ** 2
