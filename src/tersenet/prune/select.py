"""Which entries to keep, exactly as many as asked. Of equal scores the earlier entry is kept, in the order of the
weights and then of their entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def kept_count(entries: int, sparsity: float) -> int:
    """entries − round(sparsity · entries), but at least one."""
    return max(entries - round(sparsity * entries), 1)


def highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mask of the `count` highest scores, of those above −∞, of the shape of `scores`."""
    flat = scores.reshape(-1)
    order = torch.sort(flat, descending=True, stable=True).indices[:count]
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order] = True
    return (mask & (flat > -torch.inf)).reshape(scores.shape)


def highest_of_each(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mask of the `count` highest of each row, of those above −∞: bool like `scores` [rows, n]."""
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True) & (scores > -torch.inf)


def highest_of_all(scores: Sequence[torch.Tensor], count: int) -> tuple[list[torch.Tensor], list[int]]:
    """Masks of the `count` highest scores over all weights together, and the weights that needed an exception.

    Every weight keeps at least its highest entry, which takes the place of the lowest of the others, so that the
    count stays exact (unless it is smaller than the number of weights: then each keeps one).
    """
    flat = torch.cat([entries.reshape(-1) for entries in scores])
    plain = _split(highest(flat, count), scores)
    empty = [index for index, mask in enumerate(plain) if not bool(mask.any())]
    if not empty:
        return plain, []
    first = torch.cat([highest(entries, 1).reshape(-1) for entries in scores])
    rest = highest(flat.masked_fill(first, -torch.inf), max(count - len(scores), 0))
    return _split(rest | first, scores), empty


def above_deviation(weight: torch.Tensor, support: torch.Tensor, quality: float) -> int:
    """How many entries of the support reach |w| ≥ quality · σ, with σ the standard deviation over the support.

    Han et al. 2015, arXiv 1506.02626, §4: "the pruning threshold is chosen as a quality parameter multiplied by the
    standard deviation of a layer's weights". At least one.
    """
    values = weight[support].double()
    threshold = quality * values.std(correction=0)
    return max(int((values.abs() >= threshold).sum()), 1)


def above(scores: torch.Tensor, threshold: float) -> int:
    """How many scores reach `threshold`, but at least one."""
    return max(int((scores >= threshold).sum()), 1)


def normalised(scores: torch.Tensor, by: str) -> torch.Tensor:
    """Scores over their mean or their Euclidean norm, by which those of different layers become comparable (Molchanov
    et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", arXiv 1611.06440, §2.2:
    `by` l2). −∞ stays and does not count; scores whose mean or norm is zero are left as they are."""
    finite = scores[scores > -torch.inf].double()
    scale = float(finite.abs().mean() if by == "mean" else torch.linalg.vector_norm(finite)) if finite.numel() else 0.0
    return scores.double() / scale if scale > 0 else scores.double()


def _split(flat: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    parts = torch.split(flat, [entries.numel() for entries in like])
    return [part.reshape(entries.shape) for part, entries in zip(parts, like, strict=True)]
