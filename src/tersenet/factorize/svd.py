"""Matrices as products of two: nearest in their entries, or nearest in what they give on data. Dimensions before the
last two count matrices."""

from __future__ import annotations

import torch

Factors = tuple[torch.Tensor, torch.Tensor]


def truncated(matrix: torch.Tensor, rank: int) -> Factors:
    """(A [N, K], B [K, M]) with A·B the nearest matrix of rank K to `matrix` [N, M] (Eckart & Young 1936).

    Both factors carry the square root of each singular value, so that they train at one learning rate.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root[..., None, :], root[..., None] * vh[..., :rank, :]


def aware(matrix: torch.Tensor, rank: int, root: torch.Tensor) -> Factors:
    """(A [N, K], B [K, M]) with A·B = argmin E‖(W − Ŵ)x‖² over all Ŵ of rank K.

    root: [M, M], S with S·Sᵀ = E[x xᵀ] (`square_root`). As E‖(W − Ŵ)x‖² = ‖(W − Ŵ)S‖², and W·S is nearest to P·Pᵀ·W·S
    with P its first K left singular vectors, Ŵ = P·Pᵀ·W attains the least. This is reduced-rank regression of the
    layer's outputs on its inputs (Izenman 1975); Zhang et al. 2016, arXiv 1505.06798, §3.1, reach it by way of the
    outputs. Nothing is inverted: where inputs never go (S singular), Ŵ is the same projection of W.
    """
    first = torch.linalg.svd(matrix @ root, full_matrices=False)[0][..., :rank]
    return balanced(first, first.mT @ matrix)


def square_root(moment: torch.Tensor) -> torch.Tensor:
    """S with S·Sᵀ = `moment`, [M, M] symmetric; eigenvalues that rounding made negative count as zero."""
    values, axes = torch.linalg.eigh(moment)
    root: torch.Tensor = axes * values.clamp(min=0).sqrt()[..., None, :]
    return root


def balanced(a: torch.Tensor, b: torch.Tensor) -> Factors:
    """The same product from factors of equal size: A·B = A'·B' where A has orthonormal columns."""
    u, s, vh = torch.linalg.svd(b, full_matrices=False)
    root = s.sqrt()
    return a @ (u * root[..., None, :]), root[..., None] * vh
