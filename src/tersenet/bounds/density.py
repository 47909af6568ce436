"""Differential entropy in bits: of densities with a formula, and estimated from values without one."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import digamma


def gaussian_entropy(variance: float) -> float:
    """½·log2(2πe·σ²)."""
    return 0.5 * math.log2(2 * math.pi * math.e * variance) if variance > 0 else -math.inf


def laplace_entropy(scale: float) -> float:
    """log2(2e·b) of the density exp(−|x|/b) / 2b, whose variance is 2b²."""
    return math.log2(2 * math.e * scale) if scale > 0 else -math.inf


def laplace_scale(values: np.ndarray) -> float:
    """Maximum likelihood: the mean distance from the median."""
    return float(np.mean(np.abs(values - np.median(values))))


def spacing_entropy(values: np.ndarray, m: int | None = None) -> float:
    """Entropy in bits of the density that `values` [n] were drawn from, by the distances between every m-th of them.

    Mean of ln(x₍ᵢ₊ₘ₎ − x₍ᵢ₎) over the n − m pairs, + ψ(n + 1) − ψ(m): the estimator of Vasicek 1976, "A test for
    normality based on sample entropy", in its one-sided form with the correction that makes it exact in expectation
    for uniform values (such a distance has the beta distribution (m, n + 1 − m)). Consistent for m → ∞, m/n → 0
    (Beirlant et al. 1997, "Nonparametric entropy estimation", §2.3); by default m = ⌈ln n⌉, since the m highest
    values, in the tail, have no distance of their own.

    −∞ where some value occurs more than m times: there is no density then. Raises ValueError for fewer than 2 values.
    """
    values = np.sort(np.asarray(values, np.float64).reshape(-1))
    count = len(values)
    if count < 2:
        raise ValueError("entropy is estimated from 2 values or more")
    m = math.ceil(math.log(count)) if m is None else m
    if not 1 <= m < count:
        raise ValueError(f"m is {m}, but must be from 1 to less than the {count} values")
    spacings = values[m:] - values[:-m]
    if not spacings.min() > 0:
        return -math.inf
    return float(np.mean(np.log(spacings)) + digamma(count + 1) - digamma(m)) / math.log(2)
