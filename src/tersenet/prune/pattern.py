"""Patterns of kernels: few arrangements of kept entries, each kernel in one of them (Niu et al. 2020, "PatDNN", arXiv
2001.00138, §4.1; Ma et al. 2020, "PCONV", arXiv 1909.05073, §3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tersenet.prune.select import highest_of_each


def dictionary(scores: Sequence[torch.Tensor], entries: int, patterns: int) -> torch.Tensor:
    """The `patterns` most frequent arrangements of the `entries` highest scores of a kernel, bool [patterns, places].

    scores: of each weight [kernels, places], −∞ for what is pruned already. Kernels that hold fewer do not vote, unless
    all do. Of equally frequent ones the one that keeps earlier places comes first; there may be fewer than asked for.
    """
    rows = torch.cat(list(scores))
    voting = (rows > -torch.inf).sum(1) >= entries
    natural = highest_of_each(rows[voting] if bool(voting.any()) else rows, entries)
    found, counts = torch.unique(natural, dim=0, return_counts=True)
    found, counts = found.flip(0), counts.flip(0)  # lexicographic order puts late places first
    most: torch.Tensor = found[torch.sort(counts, descending=True, stable=True).indices[:patterns]]
    return most


def nearest_pattern(scores: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """For each kernel the pattern that keeps the highest sum of its scores, the earlier of equals: bool like `scores`.

    scores: [kernels, places]. known: [patterns, places].
    """
    sums = scores.double().masked_fill(scores == -torch.inf, 0) @ known.double().T  # [kernels, patterns]
    best = torch.sort(sums, dim=1, descending=True, stable=True).indices[:, 0]
    chosen: torch.Tensor = known[best]
    return chosen
