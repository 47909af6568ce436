"""What layers are given on calibration data: a sample of its values, with the smallest and the largest of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from tersenet.core.errors import DataError
from tersenet.core.stage import RunContext
from tersenet.graph.trace import undisturbed

SAMPLE = 2**16
"""Values kept of each layer's input, over all batches; enough that a percentile of 99.9 has 65 beyond it."""


def calibration(
    context: RunContext, method: str, split: Literal["train", "validation"], batches: int, batch_size: int
) -> list[tuple[torch.Tensor, ...]]:
    """Inputs of the first batches of a split; raises DataError where there are none."""
    found = [inputs for inputs, _ in context.batches(split, batches, batch_size)]
    if not found:
        raise DataError(f"{method} takes its ranges from the {split} split, which is empty; give at least one example")
    return found


def observed(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[torch.Tensor, ...]],
    context: RunContext,
) -> dict[str, torch.Tensor]:
    """{layer: values [n], float32} of the first argument of each of `layers` in eval mode, but of those never called.

    The values are drawn evenly from all batches, alike on every call; the extremes of all are among them.
    """
    batches = list(batches)
    share = max(SAMPLE // max(len(batches), 1), 1)
    kept: dict[str, list[torch.Tensor]] = {}
    hooks = [layer.register_forward_pre_hook(_keeper(kept, name, share, context)) for name, layer in layers.items()]
    try:
        with undisturbed(model):
            for inputs in batches:
                model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(found) for name, found in kept.items()}


def _keeper(
    kept: dict[str, list[torch.Tensor]], name: str, share: int, context: RunContext
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    draw = partial(torch.randint, size=(share,), generator=context.generator("observe", name))

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].detach().float().flatten()
        if values.numel() == 0:
            return
        some = values if values.numel() <= share else values[draw(values.numel()).to(values.device)]
        kept.setdefault(name, []).append(torch.cat([some, values.min()[None], values.max()[None]]))

    return keep
