"""Rate-distortion functions that have a formula: bits per number for a mean distortion D."""

from __future__ import annotations

import math


def gaussian_rate(variance: float, distortion: float) -> float:
    """max(0, ½·log2(σ² / D)), squared error (Shannon 1959; Cover and Thomas 2006, theorem 10.3.2)."""
    return max(0.0, 0.5 * math.log2(variance / distortion)) if variance > 0 else 0.0


def binary_rate(p: float, distortion: float) -> float:
    """max(0, H(p) − H(D)) of a coin that shows 1 with probability p, Hamming distortion (Cover and Thomas 2006,
    theorem 10.3.1): the least that it costs to say where nonzero weights are, if a share D may be told wrongly."""
    return max(0.0, _binary_entropy(p) - _binary_entropy(distortion)) if distortion < min(p, 1 - p) else 0.0


def laplace_rate(scale: float, distortion: float) -> float:
    """max(0, log2(b / D)) of the density exp(−|x|/b) / 2b under absolute error |x − y|.

    Berger 1971, "Rate Distortion Theory", §4.3.2; Isik et al. 2022, "An information-theoretic justification for model
    pruning", arXiv 2102.08329, which writes −log(λ·D) with λ = 1/b. Shannon's lower bound is met at every D.
    """
    return max(0.0, math.log2(scale / distortion)) if scale > 0 else 0.0


def laplace_zero_share(scale: float, distortion: float) -> float:
    """(D / b)²: the share of exact zeros in what the best code for `laplace_rate` decodes to; the others follow the
    density of the source. Pruning is part of the optimum (Isik et al. 2022, §3)."""
    return min(1.0, distortion / scale) ** 2


def laplace_refinement_rate(coarse: float, fine: float) -> float:
    """log2(D₁ / D₂): the further bits from absolute error D₁ down to D₂.

    The Laplacian under absolute error is successively refinable (Equitz and Cover 1991): in stages, it takes as many
    bits in all as in one go, so a file can be cut short without loss against a smaller one made on purpose.
    """
    if not 0 < fine <= coarse:
        raise ValueError(f"refinement goes from a larger error to a smaller one, not from {coarse} to {fine}")
    return math.log2(coarse / fine)


def _binary_entropy(p: float) -> float:
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
