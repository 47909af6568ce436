"""Group lasso: its value, and the proximal step that makes whole groups exactly zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tersenet.forms import Target, latent_of
from tersenet.prune.groups import by_role, group_size, norms


@dataclass(frozen=True, eq=False)
class Term:
    """λ·Σ_g ‖w_g‖₂ over the groups of one family of one weight (Wen et al. 2016, arXiv 1608.03665, §3.1).

    scaled: each group counts √(its size) times, so that large and small groups are held alike (Yuan & Lin 2006, "Model
        selection and estimation in regression with grouped variables", eq. 2.1 with K_j = p_j·I).
    """

    target: Target
    family: str
    strength: float
    scaled: bool = False

    def value(self) -> torch.Tensor:
        """A scalar that carries gradients to the latent."""
        return self._weighted * norms(self._view(), self.family).sum()

    @torch.no_grad()
    def shrink(self, rate: float) -> None:
        """The proximal step of `rate` times this term, in place on the latent."""
        view = self._view()
        view.copy_(shrunk(view, self.family, rate * self._weighted))

    @torch.no_grad()
    def zero_below(self, threshold: float) -> None:
        """Groups with a norm below `threshold` become zero, in place on the latent."""
        view = self._view()
        view.masked_fill_(norms(view, self.family) < threshold, 0.0)

    @torch.no_grad()
    def alive(self) -> torch.Tensor:
        """Boolean, shape of the weight: False in groups that are zero."""
        kept = torch.ones(self.target.shape, dtype=torch.bool, device=latent_of(self.target).device)
        by_role(self.target, kept).mul_(norms(self._view(), self.family) != 0)
        return kept

    def _view(self) -> torch.Tensor:
        return by_role(self.target, latent_of(self.target))

    @property
    def _weighted(self) -> float:
        return float(self.strength * (group_size(self._view(), self.family) ** 0.5 if self.scaled else 1.0))


def shrunk(view: torch.Tensor, family: str, amount: float) -> torch.Tensor:
    """w_g ← w_g·max(0, 1 − t/‖w_g‖): the x that minimises ½‖x − w‖² + t·Σ_g ‖x_g‖ (Parikh & Boyd 2014, "Proximal
    Algorithms", §6.5, block soft thresholding; for single entries the soft threshold). A zero is always +0.

    view: a weight `by_role`. amount: t ≥ 0.
    """
    found = norms(view, family)
    tiny = torch.finfo(view.dtype).tiny
    return (view * (1 - amount / found.clamp_min(tiny)).clamp_min(0)).add_(0.0)  # −0 + 0 = +0


def penalty(terms: Sequence[Term], share: float) -> torch.Tensor:
    """`share` times the sum of all terms, a scalar on the device of the first."""
    values = [term.value() for term in terms]
    return share * torch.stack([value.to(values[0].device) for value in values]).sum()


def shrink_all(terms: Sequence[Term], rate: float) -> None:
    """One proximal step of each term after the other, on each weight from the smallest groups to the largest.

    Where groups nest (entries in a shape, in a channel, in a layer) this is the proximal step of their sum (Jenatton,
    Mairal, Obozinski & Bach 2011, "Proximal Methods for Hierarchical Sparse Coding", JMLR 12, §3). Where they cross,
    as filters and channels do, it is not (Yu 2013, "On Decomposing the Proximal Map", NIPS), only the nearer the
    smaller the learning rate.
    """
    for term in terms:
        term.shrink(rate)
