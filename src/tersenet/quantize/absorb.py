"""High biases: what a layer adds to a channel in nearly all cases, the layers that read it add instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tersenet.core.stage import RunContext
from tersenet.forms import Target, form_of, weights
from tersenet.graph.compare import distance
from tersenet.graph.edits import change
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import Inputs
from tersenet.quantize.fold import Spread, outputs_of
from tersenet.quantize.joints import Joint, Side

DEVIATIONS = 3
"""Below the mean lies what all but 0.135 % of a normal distribution exceed."""


@torch.no_grad()
def absorb(
    model: nn.Module,
    scales: Iterable[tuple[Joint, torch.Tensor]],
    spreads: Mapping[str, Spread],
    samples: Sequence[Inputs],
    context: RunContext,
) -> None:
    """Take c = max(0, β − 3γ) from biases of makers into which norms have been folded, and add W·c to those of their
    readers: ReLU(x − c) = ReLU(x) − c where x > c, so that what the readers are given has a smaller range.

    Nagel et al. 2019, arXiv 1906.04721, §4.1.3, eq. 12–14; β and γ of the norm, divided by the scale s of its channel.
    It is not done where a reader pads with zeros, which would stand for −c.
    """
    before, channels, layers = outputs_of(model, samples), 0, 0
    for joint, scale in scales:
        amount = _amount(joint, scale, spreads)
        if amount is None or not bool(amount.any()):
            continue
        if (reason := _obstacle(model, joint)) is not None:
            context.note(f"high biases of {joint.maker.weight}'s layer stay: {reason}")
            continue
        _move(model, joint, amount)
        channels, layers = channels + int(amount.count_nonzero()), layers + 1
    gap = max(map(distance, outputs_of(model, samples), before)) if layers else 0.0
    context.note(f"high biases of {channels} channels of {layers} layers are absorbed; outputs differ by {gap:.2g}")


def _amount(joint: Joint, scale: torch.Tensor, spreads: Mapping[str, Spread]) -> torch.Tensor | None:
    """c of each channel, float64 [units]; None where no norm has been folded into the maker."""
    spread = spreads.get(joint.maker.weight)
    if spread is None:
        return None
    high = (spread.mean - DEVIATIONS * spread.deviation).clamp(min=0).cpu()
    return high[joint.maker.elements[:, 0]] / scale


def _obstacle(model: nn.Module, joint: Joint) -> str | None:
    named: dict[str, Target] = {slot.name: target for target in weights(model) for slot in target.slots}
    biases = [named[side.bias] for side in joint.sides if side.bias is not None]
    if (formed := next((bias for bias in biases if form_of(bias) is not None), None)) is not None:
        return f"{formed.name} is compressed itself"
    if (shared := next((bias for bias in biases if len(bias.slots) > 1), None)) is not None:
        return f"other layers share {shared.name}"
    return joint.obstacle


def _move(model: nn.Module, joint: Joint, amount: torch.Tensor) -> None:
    assert joint.maker.bias is not None  # a norm has been folded into the layer
    maker = tensors_of(model)[joint.maker.bias]
    maker.copy_(maker - amount.to(maker.device))
    for side in joint.readers:
        path = side.weight.rpartition(".")[0]
        if side.bias is None:
            change(model, f"{path}.bias", "bias", {})
        layer: Any = model.get_submodule(path)
        layer.bias.copy_(layer.bias + _added(side, layer.weight, amount))


def _added(side: Side, weight: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """W·c, float64 [outputs]."""
    return (weight * side.spread(amount, weight)).flatten(1).sum(1)
