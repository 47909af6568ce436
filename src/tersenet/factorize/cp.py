"""A kernel as a sum of outer products of four vectors each, by alternating least squares."""

from __future__ import annotations

from math import prod, sqrt

import torch

Weights = list[torch.Tensor]

SWEEPS, TOLERANCE = 100, 1e-7
"""Rounds at most, and the gain in relative error below which they end."""


def cp(weight: torch.Tensor, rank: int, seed: int) -> Weights:
    """W[n, c, i, j] ≈ Σ_r A[n, r]·B[c, r]·U[i, r]·V[j, r] as 1×1, depthwise k×1, depthwise 1×k and 1×1.

    Lebedev et al. 2015, "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", arXiv 1412.6553,
    eq. 2–7. The four vectors of a term get equal norms, without which training is unstable (their §4).
    """
    if rank == prod(weight.shape) // max(weight.shape):
        return _layers(_fibres(weight))
    generator = torch.Generator().manual_seed(seed)
    start = [torch.rand(size, rank, generator=generator, dtype=weight.dtype) for size in weight.shape]
    factors = alternating(weight, [factor.to(weight.device) for factor in start])
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    each = norms.prod(0) ** (1 / len(norms))
    return _layers([factor * (each / norm.clamp(min=1e-300)) for factor, norm in zip(factors, norms, strict=True)])


def alternating(weight: torch.Tensor, start: Weights, sweeps: int = SWEEPS, tolerance: float = TOLERANCE) -> Weights:
    """[A, B, U, V], from `start` on: each in turn is the least-squares solution for the other three (Kolda & Bader
    2009, "Tensor Decompositions and Applications", §3.4).

    Σ_nc W·A·B is made once a round for both U and V, so that nothing as large as the weight times the rank is held.
    """
    n, c, high, wide = weight.shape
    rows, columns = weight.reshape(n, -1), weight.transpose(0, 1).reshape(c, -1)
    a, b, u, v = start
    norm, before = float(weight.square().sum()), float("inf")
    for _ in range(sweeps):
        places = _pairs(u, v)
        a = _solved(rows @ _pairs(b, places), b, u, v)
        b = _solved(columns @ _pairs(a, places), a, u, v)
        inside = ((a.T @ rows).reshape(-1, c, high, wide) * b.T[:, :, None, None]).sum(1)
        u = _solved(torch.einsum("rij,jr->ir", inside, v), a, b, v)
        product = torch.einsum("rij,ir->jr", inside, u)
        v = _solved(product, a, b, u)
        square = norm - 2 * float((product * v).sum()) + float(_gram(a, b, u, v).sum())
        error = sqrt(max(square, 0.0) / norm) if norm else 0.0
        if before - error < tolerance:
            break
        before = error
    return [a, b, u, v]


def _pairs(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """All products of a row of the one and a row of the other, term by term (Khatri–Rao): [F·S, R]."""
    return (first[:, None] * second[None]).flatten(0, 1)


def _gram(*factors: torch.Tensor) -> torch.Tensor:
    """Inner products of the terms of these factors, [R, R]."""
    return torch.stack([factor.T @ factor for factor in factors]).prod(0)


def _solved(product: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """The factor of least error beside `others`, from the normal equations; terms that are all zero stay so."""
    gram = _gram(*others)
    ridge = (1e-12 * gram.diagonal().mean()).clamp(min=1e-30)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution: torch.Tensor = torch.linalg.solve(gram + ridge * eye, product.T)
    return solution.T


def _fibres(weight: torch.Tensor) -> Weights:
    """The exact terms: each fibre along the longest dimension, times unit vectors along the others."""
    longest = max(range(weight.ndim), key=lambda dim: weight.shape[dim])
    rest = [size for dim, size in enumerate(weight.shape) if dim != longest]
    places = iter(torch.unravel_index(torch.arange(prod(rest)), rest))
    return [
        weight.movedim(dim, 0).reshape(size, -1)
        if dim == longest
        else torch.eye(size, dtype=weight.dtype)[next(places)].T
        for dim, size in enumerate(weight.shape)
    ]


def _layers(factors: Weights) -> Weights:
    a, b, u, v = factors
    return [b.T[:, :, None, None], u.T[:, None, :, None], v.T[:, None, None, :], a[:, :, None, None]]
