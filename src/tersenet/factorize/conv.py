"""The weight of a layer as the weights of its factors, for every kind of `graph.factors`.

A weight is that of one group, float64, [N, C, *kernel] or [N, M]. Matrices whose ranks decide are made by `unfold`.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorly
import torch
from tensorly.decomposition import partial_tucker

from tersenet.factorize.cp import cp
from tersenet.factorize.svd import Factors, aware, square_root, truncated

Weights = list[torch.Tensor]

RIDGE = 1e-2
"""Along directions in which data hardly vary, nearness of the weight decides, not what the few examples had there."""


def unfold(kind: str, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The matrices whose ranks are those of the factors; none for cp and depthwise, whose ranks are those of none.

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


def decompose(
    kind: str, weight: torch.Tensor, ranks: Sequence[int], seed: int = 0, root: torch.Tensor | None = None
) -> Weights:
    """Weights of the factors, in the order in which they compute. seed: for cp, whose search begins at random. root: of
    svd and depthwise, [M, M] with root·rootᵀ = E[x xᵀ] of what the layer reads; outputs are then kept close."""
    if kind == "cp":
        return cp(weight, ranks[0], seed)
    if kind == "tucker":
        return tucker(weight, ranks[0], ranks[1])
    if kind == "depthwise":
        return depthwise(weight, ranks[0], root)
    matrix = unfold(kind, weight)[0]
    near = truncated(matrix, ranks[0]) if root is None else aware(matrix, ranks[0], root)
    return fold(kind, near, weight.shape)


def tucker(weight: torch.Tensor, outputs: int, inputs: int) -> Weights:
    """W ≈ G ×₁ A ×₂ B as 1×1 (Bᵀ), the window (G) and 1×1 (A), by higher-order orthogonal iteration.

    Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
    arXiv 1511.06530, §3.1 (Tucker-2).
    """
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        (core, (a, b)), _ = partial_tucker(weight, rank=[outputs, inputs], modes=[0, 1], tol=1e-7)
    ones = [1] * (weight.ndim - 2)
    return [b.T.reshape(inputs, -1, *ones), core, a.reshape(-1, outputs, *ones)]


def depthwise(weight: torch.Tensor, rank: int, root: torch.Tensor | None = None) -> Weights:
    """W[n, c, …] ≈ Σ_k A[n, c, k]·D[c, k, …]: K kernels for each input channel, and 1×1.

    By the SVD of each input channel's [N, places], which is exact at K = min(N, places): Guo et al. 2018, "Network
    Decoupling: From Regular to Depthwise Separable Convolutions", arXiv 1808.05517, theorem 1. root: [M, M], S with
    S·Sᵀ = E[x xᵀ] of the rows of C·places that are read; kernels then are those that keep what each channel gives, and
    A = argmin E‖(W − A·D)x‖² + ε‖W − A·D‖², ε being `RIDGE` of the mean variance of an input.
    """
    n, c, *kernel = weight.shape
    channels = weight.reshape(n, c, -1).transpose(0, 1)
    if root is None:
        mixed, kernels = truncated(channels, rank)
        mixing = mixed.transpose(0, 1).reshape(n, -1)
    else:
        own = root.reshape(c, -1, root.shape[-1])
        kernels = aware(channels, rank, square_root(own @ own.mT))[1]
        every = torch.block_diag(*kernels)  # type: ignore[no-untyped-call]
        moment = root @ root.mT
        moment.diagonal().add_(RIDGE * moment.diagonal().mean())
        mixing = weight.reshape(n, -1) @ moment @ every.mT @ torch.linalg.pinv(every @ moment @ every.mT)
    return [kernels.reshape(c * rank, 1, *kernel), mixing.reshape(n, c * rank, *[1] * len(kernel))]


RULES = {
    "svd": "kc...,nk...->nc...",
    "channel": "kc...,nk...->nc...",
    "spatial": "kciz,nkzj->ncij",
    "cp": "rcyz,rwiz,rwyj,nrwz->ncij",
    "tucker": "sc...,ts...,nt...->nc...",
    "depthwise": "ck...,nck...->nc...",
}
"""Which entries of the factors are multiplied; y, z and w run over one place only."""


def compose(kind: str, weights: Weights, ranks: Sequence[int]) -> torch.Tensor:
    """The weight (of one group) that the factors of these ranks stand for."""
    if kind == "depthwise":
        kernels, mixing = weights
        shape = (-1, ranks[0], *kernels.shape[2:])
        weights = [kernels.reshape(shape), mixing.reshape(len(mixing), *shape[:2], *mixing.shape[2:])]
    return torch.einsum(RULES[kind], *weights)
