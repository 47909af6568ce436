"""What training minimises. A recipe names one of these, or a function of the user's own (`package.module:function`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.factory import find
from tersenet.core.registry import Registry
from tersenet.core.training import Training

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(output of the model, target) → a scalar."""

OBJECTIVES: Registry[Callable[[Training], Objective]] = Registry("objective")


@OBJECTIVES.register("cross_entropy")
def cross_entropy(training: Training) -> Objective:
    """Mean −log p(target). Output (N, C, …) logits, target (N, …) classes."""
    smoothing = training.label_smoothing

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        classes = target if target.is_floating_point() else target.long()
        return F.cross_entropy(output.float(), classes, label_smoothing=smoothing)

    return loss


@OBJECTIVES.register("mse")
def mean_squared_error(training: Training) -> Objective:
    """Mean (output − target)². Both of one shape."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.shape != target.shape:
            raise ModelError(
                f"objective 'mse' compares two of one shape, but the output is {tuple(output.shape)} and the target "
                f"{tuple(target.shape)}"
            )
        return F.mse_loss(output.float(), target.float())

    return loss


@OBJECTIVES.register("squared_hinge")
def squared_hinge(training: Training) -> Objective:
    """Mean max(0, 1 − t·output)² over all outputs, t = 1 for the target's class and −1 for all others (the L2-SVM
    output of Tang 2013, arXiv 1306.0239, as binary networks use it). Output (N, C, …), target (N, …) classes."""
    if training.label_smoothing:
        raise RecipeError("'label_smoothing' does not go with objective 'squared_hinge', whose targets are −1 and 1")

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if target.is_floating_point() or target.shape != output.shape[:1] + output.shape[2:]:
            raise ModelError(
                f"objective 'squared_hinge' takes an output (N, C, …) and classes (N, …), but the output is "
                f"{tuple(output.shape)} and the target {target.dtype} of shape {tuple(target.shape)}"
            )
        signs = torch.full_like(output, -1.0, dtype=torch.float32).scatter_(1, target.long().unsqueeze(1), 1.0)
        return (1 - signs * output.float()).clamp(min=0).square().mean()

    return loss


def objective_for(training: Training) -> Objective:
    """The function that `training.objective` names; raises RecipeError when there is none."""
    name = training.objective
    if ":" not in name:
        return OBJECTIVES[name](training)
    return find(name, RecipeError)


def output_of(result: Any) -> torch.Tensor:
    """The tensor in what a model returns: itself, `.logits`, the entry 'logits', or the first of a tuple."""
    if isinstance(result, torch.Tensor):
        return result
    if isinstance(result, dict) and "logits" in result:
        return output_of(result["logits"])
    if hasattr(result, "logits"):
        return output_of(result.logits)
    if isinstance(result, list | tuple) and result:
        return output_of(result[0])
    raise ModelError(f"the model returns {type(result).__name__}: a tensor, a tuple or something with logits is needed")
