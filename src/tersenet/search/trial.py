"""One layer pruned for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tersenet.forms import Target, latent_of
from tersenet.prune.groups import by_role
from tersenet.prune.select import highest, kept_count

GRANULARITIES = ("element", "filter")


def kept(target: Target, ratio: float, granularity: str) -> torch.Tensor:
    """Which entries stay when `ratio` of them, or of the filters, become zero: boolean, shape of the weight.

    element: the largest |w|, exactly those that prune.magnitude keeps. filter: the filters (rows of a linear weight)
    with the largest Σ|w| (Li et al. 2017, "Pruning Filters for Efficient ConvNets", arXiv 1608.08710, §3.1). At least
    one stays; of equals the earlier one.
    """
    weight = latent_of(target).detach()
    if granularity == "element":
        return highest(weight.abs(), kept_count(weight.numel(), ratio))
    view = by_role(target, weight)
    sums = view.abs().sum(dim=tuple(range(2, view.ndim)), keepdim=True)
    mask = torch.ones_like(weight, dtype=torch.bool)
    by_role(target, mask).mul_(highest(sums, kept_count(sums.numel(), ratio)))
    return mask


@contextmanager
def pruned(target: Target, ratio: float, granularity: str) -> Iterator[int]:
    """Within, the weight is pruned, and so are the biases of filters that are zero; gives how many of its entries are
    zero. After it, the model is bit for bit what it was.

    A batch norm after the layer is left alone: a lost filter still leaves its constant there.
    """
    weight = latent_of(target)
    mask = kept(target, ratio, granularity)
    biases = _biases(target) if granularity == "filter" else []
    before = [parameter.detach().clone() for parameter in (weight, *biases)]
    lost = ~by_role(target, mask).flatten(2).any(dim=2).flatten()
    try:
        with torch.no_grad():
            weight.masked_fill_(~mask, 0.0)
            for bias in biases:
                bias.masked_fill_(lost, 0.0)
        yield int((weight.detach() == 0).sum())
    finally:
        with torch.no_grad():
            for parameter, values in zip((weight, *biases), before, strict=True):
                parameter.copy_(values)


def _biases(target: Target) -> list[nn.Parameter]:
    """Those of the layers that compute with the weight, one entry for each of its filters."""
    view = by_role(target, latent_of(target).detach())
    found = [getattr(module, "bias", None) for module, attribute in target.owners if attribute == "weight"]
    return [bias for bias in found if isinstance(bias, nn.Parameter) and bias.shape == (view.shape[0] * view.shape[1],)]
