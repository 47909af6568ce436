"""Distillation: what teachers make of the same inputs, beside the targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from tersenet.core.training import Teacher
from tersenet.train.objectives import output_of


class Teachers:
    """Loss (1 − w)·L + w·T²·KL(q ‖ p), p = softmax(output / T), q the mean over the teachers of their softmax at T
    (Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, §2).

    models: in eval mode; outputs (N, C, …) logits, as the student's.
    """

    def __init__(self, models: Sequence[nn.Module], settings: Teacher) -> None:
        self.models, self.settings = models, settings

    @torch.no_grad()
    def taught(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """q, (N, C, …), float32."""
        outputs = [output_of(model(*inputs)).float() / self.settings.temperature for model in self.models]
        return torch.stack([output.softmax(1) for output in outputs]).mean(0)

    def loss(self, plain: torch.Tensor, output: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`plain`: the loss by the targets; `output`: of the student for these inputs."""
        weight, temperature = self.settings.weight, self.settings.temperature
        learned = (output.float() / temperature).log_softmax(1)
        apart = F.kl_div(learned, self.taught(inputs), reduction="sum") * (
            temperature**2 * output.shape[1] / output.numel()
        )
        return (1 - weight) * plain + weight * apart
