"""The weight of a layer as the weights of its factors, for every kind of `graph.factors`.

A weight is that of one group, float64, [N, C, *kernel] or [N, M]. Matrices whose ranks decide are made by `unfold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import tensorly
import torch
from tensorly.decomposition import parafac, partial_tucker

from tersenet.factorize.svd import Factors, truncated

Weights = list[torch.Tensor]

SWEEPS, TOLERANCE = 100, 1e-7
"""Of alternating least squares: rounds at most, and the gain in relative error below which it ends."""


def unfold(kind: str, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The matrices whose ranks are those of the factors; none for cp, whose rank is that of the tensor.

    svd: [N, C·k·k]. channel: [C, N·k·k]. spatial: [C·k, N·k], rows (input, row of the kernel). tucker: the first two.
    """
    if kind == "svd":
        return (weight.reshape(len(weight), -1),)
    if kind == "channel":
        return (weight.transpose(0, 1).reshape(weight.shape[1], -1),)
    if kind == "spatial":
        n, c, high, wide = weight.shape
        return (weight.permute(1, 2, 0, 3).reshape(c * high, n * wide),)
    return (*unfold("svd", weight), *unfold("channel", weight)) if kind == "tucker" else ()


def refold(kind: str, matrix: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The weight of this shape that is unfolded to `matrix`, of kinds with one matrix."""
    n, c, *kernel = shape
    if kind == "channel":
        return matrix.reshape(c, n, *kernel).transpose(0, 1)
    if kind == "spatial":
        return matrix.reshape(c, kernel[0], n, kernel[1]).permute(2, 0, 1, 3)
    return matrix.reshape(n, c, *kernel)


def fold(kind: str, factors: Factors, shape: Sequence[int]) -> Weights:
    """Weights of the two layers from A·B, an `unfold`ed weight of this shape."""
    a, b = factors
    rank = len(b)
    n, c, *kernel = shape
    ones = [1] * len(kernel)
    if kind == "svd":
        return [b.reshape(rank, c, *kernel), a.reshape(n, rank, *ones)]
    if kind == "channel":
        return [a.mT.reshape(rank, c, *ones), b.reshape(rank, n, *kernel).transpose(0, 1)]
    return [a.mT.reshape(rank, c, kernel[0], 1), b.reshape(rank, n, 1, kernel[1]).transpose(0, 1)]


def decompose(kind: str, weight: torch.Tensor, ranks: Sequence[int], seed: int = 0) -> Weights:
    """Weights of the factors, in the order in which they compute. seed: for cp, whose search begins at random."""
    if kind == "cp":
        return cp(weight, ranks[0], seed)
    if kind == "tucker":
        return tucker(weight, ranks[0], ranks[1])
    return fold(kind, truncated(unfold(kind, weight)[0], ranks[0]), weight.shape)


def cp(weight: torch.Tensor, rank: int, seed: int) -> Weights:
    """W[n, c, i, j] ≈ Σ_r A[n, r]·B[c, r]·U[i, r]·V[j, r] as 1×1, depthwise k×1, depthwise 1×k and 1×1.

    Lebedev et al. 2015, "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", arXiv 1412.6553,
    eq. 2–7, by alternating least squares. The four vectors of a term get equal norms, without which training is
    unstable (their §4).
    """
    if rank == prod(weight.shape) // max(weight.shape):
        return _cp_layers(_fibres(weight))
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        found = parafac(weight, rank, n_iter_max=SWEEPS, init="random", tol=TOLERANCE, random_state=seed)
    norms = torch.stack([factor.norm(dim=0) for factor in found.factors])
    each = norms.prod(0) ** (1 / len(norms))
    return _cp_layers(
        [factor * (each / norm.clamp(min=1e-300)) for factor, norm in zip(found.factors, norms, strict=True)]
    )


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


def _cp_layers(factors: Weights) -> Weights:
    a, b, u, v = factors
    return [b.T[:, :, None, None], u.T[:, None, :, None], v.T[:, None, None, :], a[:, :, None, None]]


def tucker(weight: torch.Tensor, outputs: int, inputs: int) -> Weights:
    """W ≈ G ×₁ A ×₂ B as 1×1 (Bᵀ), the window (G) and 1×1 (A), by higher-order orthogonal iteration.

    Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
    arXiv 1511.06530, §3.1 (Tucker-2).
    """
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        (core, (a, b)), _ = partial_tucker(weight, rank=[outputs, inputs], modes=[0, 1], tol=TOLERANCE)
    ones = [1] * (weight.ndim - 2)
    return [b.T.reshape(inputs, -1, *ones), core, a.reshape(-1, outputs, *ones)]


RULES = {
    "svd": "kc...,nk...->nc...",
    "channel": "kc...,nk...->nc...",
    "spatial": "kciz,nkzj->ncij",
    "cp": "rcyz,rwiz,rwyj,nrwz->ncij",
    "tucker": "sc...,ts...,nt...->nc...",
}
"""Which entries of the factors are multiplied; y, z and w run over one place only."""


def compose(kind: str, weights: Weights) -> torch.Tensor:
    """The weight (of one group) that the factors stand for."""
    return torch.einsum(RULES[kind], *weights)
