"""Second order with cross terms inside blocks: Optimal Brain Surgeon on the empirical Fisher matrix (Hassibi & Stork
1992, "Second order derivatives for network pruning"; Singh & Alistarh 2020, "WoodFisher", arXiv 2004.14340, §3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class BlockInverse:
    """(λI + 1/N Σ g_n g_nᵀ)⁻¹ of each block of entries that follow one another in a weight.

    blocks: [blocks, b, b]; the last one is filled up with entries that no gradient reaches.
    entries: of the weight.
    """

    blocks: torch.Tensor
    entries: int

    @classmethod
    def start(cls, entries: int, block: int, damping: float, like: torch.Tensor) -> BlockInverse:
        """λ⁻¹I, before any gradient."""
        size = min(block, entries)
        eye = torch.eye(size, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
        return cls((eye / damping).repeat(-(-entries // size), 1, 1), entries)

    def add(self, gradient: torch.Tensor, total: int) -> None:
        """Take in one of `total` gradients, in place: F⁻¹ ← F⁻¹ − F⁻¹ggᵀF⁻¹ / (N + gᵀF⁻¹g), eq. 3 of WoodFisher."""
        g = self.cut(gradient)
        along = torch.bmm(self.blocks, g.unsqueeze(2)).squeeze(2)  # F⁻¹g, [blocks, b]
        scale = total + (g * along).sum(1)
        self.blocks.baddbmm_((along / scale.unsqueeze(1)).unsqueeze(2), along.unsqueeze(1), alpha=-1)

    def diagonal(self, shape: torch.Size) -> torch.Tensor:
        """[F⁻¹]_qq of every entry, in the weight's shape."""
        return self._joined(self.blocks.diagonal(dim1=1, dim2=2), shape)

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the weight's shape as [blocks, b], zeros at the end."""
        flat = values.detach().reshape(-1).to(self.blocks.dtype)
        missing = self.blocks.shape[0] * self.blocks.shape[1] - self.entries
        return torch.nn.functional.pad(flat, (0, missing)).view(self.blocks.shape[:2])

    def compensation(self, weight: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """δw under which the loss rises least when what is not kept becomes zero; shape of the weight.

        δw = −F⁻¹[:, Q] ([F⁻¹]_QQ)⁻¹ w_Q for the set Q that a block loses, all at once (eq. 2 of Kurtic et al. 2022,
        "The Optimal BERT Surgeon", arXiv 2203.07259; of one weight, WoodFisher's eq. 5).
        """
        lost = self.cut(~kept)  # 1 where lost
        inner = lost.unsqueeze(2) * self.blocks * lost.unsqueeze(1) + torch.diag_embed(1 - lost)
        z = torch.linalg.solve(inner, (lost * self.cut(weight)).unsqueeze(2))
        delta = -torch.bmm(self.blocks, z).squeeze(2)
        return self._joined(delta, weight.shape).to(weight.dtype)

    def _joined(self, rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return rows.reshape(-1)[: self.entries].reshape(shape)
