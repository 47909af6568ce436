"""Rate-distortion of Laplacian weights under squared error, which has no formula, from a table.

Dense weights are closer to Laplacian than to Gaussian. At high rates Shannon's lower bound is all there is to say; at
low rates the truth lies above it: it costs something to say which few weights are not zero.

The table holds the dual of R(D), G(μ) = min over d of R(d) + μ·d, of the density of variance 1, by `blahut_arimoto`
(its certain lower end, on 200 cells of growing width up to 20 standard deviations). G is concave, so that straight
lines between entries stay below it; so does the dual of Shannon's lower bound. For any λ ≥ 0, groups of n_g numbers
with variance v_g and weight f_g then need at least Σ n_g·G(λ·f_g·v_g) − λ·D bits for a weighted squared error of D.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar

SLOPES = (0.0, 0.25, 0.35355, 0.5, 1.0, 1.41421, 2.0, 2.82843)
DUALS = (0.0, 0.24993, 0.35281, 0.49409, 0.88665, 1.11608, 1.35446, 1.60606)
"""μ in bits, and G(μ) in bits."""

POWER = math.e / math.pi
"""Entropy power of the Laplacian of variance 1: (2e·b)² / 2πe with b² = ½."""


def dual(slope: np.ndarray) -> np.ndarray:
    """A lower end of G(μ), in bits: the table up to μ = 2.8, from there on Shannon's bound, a thousandth below it."""
    slope = np.asarray(slope, np.float64)
    table = np.interp(slope, SLOPES, DUALS)
    with np.errstate(divide="ignore"):
        shannon = 0.5 * np.log2(2 * math.log(2) * slope * POWER) + 0.5 / math.log(2)
    return np.asarray(np.maximum(table, shannon))


def laplace_bits(counts: np.ndarray, variances: np.ndarray, weights: np.ndarray, distortion: float) -> float:
    """The fewest bits for Laplacian groups at a total weighted squared error of at most `distortion` > 0.

    counts n_g, variances v_g = 2b², weights f_g: [groups] each. A lower bound for whichever λ the search ends at.
    """
    counts, tops = np.asarray(counts, np.float64), np.asarray(variances, np.float64) * np.asarray(weights, np.float64)
    used = tops > 0
    counts, tops = counts[used], tops[used]
    if not distortion > 0:
        raise ValueError(f"the distortion must be positive, but is {distortion}")
    if not len(tops):
        return 0.0

    def negative(log_multiplier: float) -> float:
        multiplier = math.exp2(log_multiplier)
        return multiplier * distortion - float(counts @ dual(multiplier * tops))

    centre = math.log2(counts.sum() / (2 * math.log(2) * distortion))  # the answer at high rates
    found = minimize_scalar(negative, bounds=(centre - 12, centre + 4), method="bounded", options={"xatol": 1e-4})
    return max(0.0, -float(found.fun))
