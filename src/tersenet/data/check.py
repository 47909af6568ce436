"""Do this model and this data fit together? Asked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tersenet.core.errors import DataError
from tersenet.core.factory import reason
from tersenet.data.source import Batch, Splits


def check_fits(model: nn.Module, splits: Splits) -> None:
    """Run a few examples of each split through `model` in eval mode; its state and flags are left as they were.

    Raises DataError naming the batch's shape and what the model said if it cannot take them, or if a classifier has
    fewer outputs than the data has classes.
    """
    for name, source in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if source is not None:
            batch = source.example()
            if batch.target is not None and batch.target.ndim == 0:
                raise DataError(
                    f"{splits.name}: {name}: its batches have no batch axis; give the DataLoader a batch_size"
                )
            _check_inputs(batch, f"{splits.name}: {name}")
            _check_output(_run(model, batch, f"{splits.name}: {name}"), batch, splits, name)


def _check_inputs(batch: Batch, where: str) -> None:
    for tensor in batch.inputs:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError(f"{where}: the first batch holds NaN or infinity")


def _run(model: nn.Module, batch: Batch, where: str) -> Any:
    tensor = next(iter((*model.parameters(), *model.buffers())), None)
    batch = batch if tensor is None else batch.to(tensor.device)
    try:
        with _untouched(model), torch.no_grad():
            return model(*batch.inputs)
    except Exception as error:
        shapes = " and ".join(f"{list(x.shape)} ({str(x.dtype).removeprefix('torch.')})" for x in batch.inputs)
        raise DataError(f"{where}: the model cannot take a batch of shape {shapes}: {reason(error)}") from error


def _check_output(output: Any, batch: Batch, splits: Splits, split: str) -> None:
    """Only a single tensor [B, K, …] beside class labels [B, …] says how many classes the model tells apart."""
    target = batch.target
    if not isinstance(output, torch.Tensor) or target is None or target.is_floating_point():
        return
    if output.ndim != target.ndim + 1 or target.numel() == 0 or output.shape[1] == 1:  # one output is a number
        return
    outputs, needed = output.shape[1], max(splits.classes or 0, int(target.max()) + 1)
    if int(target.min()) < 0:
        raise DataError(f"{splits.name}: {split} has label {int(target.min())}; labels must be 0 or more")
    if needed > outputs:
        raise DataError(f"{splits.name}: the data has {needed} classes, but the model has {outputs} outputs")


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards flags, buffers and torch's random state are as before."""
    flags = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng():
            model.eval()
            yield
    finally:
        for module, flag in flags.items():
            module.training = flag
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
