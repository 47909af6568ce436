"""How good a model is on a split: loss, and for a classifier the share it gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


@torch.no_grad()
def evaluate(
    model: nn.Module,
    source: Any,
    loss: Callable[[Any, torch.Tensor], torch.Tensor],
    output_of: Callable[[Any], torch.Tensor],
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> dict[str, float]:
    """Mean `loss` over a `data.Source` in its own order, in full precision; 'error' (share in [0, 1]) when targets are
    classes; 'examples'. Train and eval flags are put back as they were. Without `batch_size`, batches are small on a
    processor, so that activations stay in its caches, which takes up to half the time, and large elsewhere."""
    batch_size = batch_size or (100 if torch.device(device).type == "cpu" else 1000)
    flags = {module: module.training for module in model.modules()}
    model.eval()
    total, wrong, counted, examples = 0.0, 0, 0, 0
    try:
        with parametrize.cached():  # each weight is decoded once, not once a batch
            for batch in source.batches(batch_size):
                inputs = tuple(tensor.to(device) for tensor in batch.inputs)
                target = batch.target.to(device)
                output = output_of(model(*inputs))
                total += float(loss(output, target)) * len(target)
                examples += len(target)
                if _are_classes(output, target):
                    wrong += int((output.argmax(1) != target).sum())
                    counted += target.numel()
    finally:
        for module, flag in flags.items():
            module.training = flag
    scores = {"loss": total / max(1, examples), "examples": float(examples)}
    return {**scores, "error": wrong / counted} if counted else scores


def _are_classes(output: torch.Tensor, target: torch.Tensor) -> bool:
    """Logits (N, C, …) beside integer targets (N, …)."""
    return not target.is_floating_point() and output.ndim == target.ndim + 1
