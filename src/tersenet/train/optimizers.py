"""The optimizer a recipe asks for."""

from __future__ import annotations

import torch
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.training import Training


def weights_and_rest(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters of two and more dimensions, and the others (biases, norms, codebooks), each once."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ModelError("the model has no parameter that can be trained (requires_grad is off on all of them)")
    return [p for p in trainable if p.ndim >= 2], [p for p in trainable if p.ndim < 2]


def optimizer_for(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """L2 acts on weights of two and more dimensions only, as usual: not on biases, norms or codebooks."""
    weights, rest = weights_and_rest(model)
    groups = [{"params": weights, "weight_decay": training.l2}, {"params": rest, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in [*weights, *rest])
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov, fused=fused
        )
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=training.lr, fused=fused)


def add_l1_gradient(weights: list[nn.Parameter], strength: float) -> None:
    """The subgradient of strength·Σ|w|, which is cheaper than the term in the loss and the same."""
    for weight in weights:
        if weight.grad is not None:
            weight.grad.add_(weight.detach().sign(), alpha=strength)
