"""Ways to choose ranks: from the size of a layer, from the singular values of its weight, or from noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tersenet.factorize.vbmf import rank_of

Ranks = tuple[int, ...]


def by_share(share: float, most: Ranks) -> Ranks:
    """`share` of the singular values there are, rounded, and one at least."""
    return tuple(max(round(share * limit), 1) for limit in most)


def by_parameters(share: float, most: Ranks, parameters: Callable[[Ranks], int], dense: int) -> Ranks | None:
    """The largest ranks, all in proportion to `most`, whose factors hold at most `share` · `dense` numbers.

    None if even those of rank 1 hold more. parameters: how many factors of given ranks hold.
    """
    steps = max(most)
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        if parameters(_part(most, middle, steps)) <= share * dense:
            low = middle
        else:
            high = middle - 1
    return _part(most, low, steps) if low else None


def by_energy(share: float, spectra: Sequence[torch.Tensor]) -> Ranks:
    """The least ranks that keep `share` of the sum of squared singular values, of each spectrum (largest first)."""
    return tuple(_least(spectrum, (1 - share) * float(spectrum.square().sum())) for spectrum in spectra)


def by_error(error: float, spectra: Sequence[torch.Tensor]) -> Ranks:
    """The least ranks with ‖W − Ŵ‖/‖W‖ ≤ `error`; of several spectra each may lose an equal part of the square, as the
    square of the whole error is at most the sum of theirs (De Lathauwer et al. 2000, property 10)."""
    return tuple(_least(spectrum, error**2 * float(spectrum.square().sum()) / len(spectra)) for spectrum in spectra)


def by_vbmf(spectra: Sequence[torch.Tensor], shapes: Sequence[Sequence[int]]) -> Ranks:
    """What is more than noise in matrices of these shapes; may be 0."""
    return tuple(rank_of(spectrum.cpu().numpy(), *shape) for spectrum, shape in zip(spectra, shapes, strict=True))


def _part(most: Ranks, step: int, steps: int) -> Ranks:
    return tuple(max(limit * step // steps, 1) for limit in most)


def _least(spectrum: torch.Tensor, allowed: float) -> int:
    """The least rank, from 1, whose tail of squares is at most `allowed`, up to rounding."""
    squares = spectrum.double().square()
    tails = squares.flip(0).cumsum(0).flip(0)  # tails[k]: lost at rank k
    slack = 1e-12 * float(squares.sum())
    return max(int((tails > allowed + slack).sum()), 1)
