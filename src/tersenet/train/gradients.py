"""Gradients of a trained model on data, nothing of which is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tersenet.core.errors import DataError, ModelError


def gradients(scalar: torch.Tensor, latents: Sequence[nn.Parameter], *, again: bool = False) -> list[torch.Tensor]:
    """∂scalar/∂latent of each, zeros where it does not depend on one; `again`: to be differentiated once more.

    Raises ModelError where it depends on none of the model's weights.
    """
    if not scalar.requires_grad:
        raise ModelError("the model's loss does not depend on any of the weights to be compressed")
    found = torch.autograd.grad(scalar, latents, create_graph=again, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(latents, found, strict=True)]


@contextmanager
def undisturbed(model: nn.Module, latents: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, the model is in eval mode and `latents` take gradients; afterwards its modes, buffers, `requires_grad`
    and `grad` and the global random numbers are what they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    learned = [(latent, latent.requires_grad) for latent in latents]
    devices = sorted({latent.device.index or 0 for latent in latents if latent.is_cuda})
    cudnn = torch.backends.cudnn.enabled and not any(isinstance(module, nn.RNNBase) for module in model.modules())
    model.eval()
    for latent in latents:
        latent.requires_grad_(True)
    try:
        # cuDNN has no gradients of recurrent layers in eval mode
        with torch.enable_grad(), torch.random.fork_rng(devices), torch.backends.cudnn.flags(enabled=cudnn):
            torch.manual_seed(0)  # for models that draw numbers in eval mode too
            yield
    finally:
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)
        for latent, flag in learned:
            latent.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def fisher(
    model: nn.Module,
    latents: Sequence[nn.Parameter],
    batches: Iterable[tuple[tuple[torch.Tensor, ...], torch.Tensor]],
    loss: Callable[[nn.Module, tuple[tuple[torch.Tensor, ...], torch.Tensor]], torch.Tensor],
) -> list[torch.Tensor]:
    """Diagonal of the empirical Fisher matrix of each latent: mean over batches of the squared gradient of the batch's
    mean loss, in eval mode. Raises DataError without batches."""
    total = [torch.zeros_like(latent, dtype=torch.float32) for latent in latents]
    count = 0
    with undisturbed(model, latents):
        for batch in batches:
            count += 1
            for sums, gradient in zip(total, gradients(loss(model, batch), latents), strict=True):
                sums.add_(gradient.detach().square())
    if not count:
        raise DataError("importance is measured on batches of data, and there are none")
    return [sums / count for sums in total]
