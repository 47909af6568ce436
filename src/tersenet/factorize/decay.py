"""factorize.decay: train so that the ranks of weights fall, before they become factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.factorize.conv import refold, unfold
from tersenet.factorize.layers import parts_of, refusal
from tersenet.forms import Target, form_of, latent_of, match, per_target
from tersenet.forms.options import one_or_per_layer
from tersenet.train.schedules import rate_factor


@register_stage("factorize.decay")
class RankDecay(Stage):
    """Train with loss + λ·Σ‖W‖_*, the sum of all singular values of each weight, so that many of them become zero.

    By proximal steps: every few steps of SGD at learning rate η with momentum μ, each singular value σ of the weight
    becomes max(0, σ − t), with t the sum of ηλ/(1 − μ) over the steps since the last (Cai, Candès & Shen 2010, "A
    Singular Value Thresholding Algorithm for Matrix Completion", SIAM J. Optim. 20(4), theorem 2.1; Xu et al. 2020,
    "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", arXiv 2004.14566, for networks). The singular
    values are those of the matrix that `factorize.low_rank` with the same `decomposition` takes apart; of a grouped
    convolution, those of each group.

    Weight decay on factors (`l2` of a fine-tuning of `factorize.low_rank`) pulls the same way: ½(‖A‖² + ‖B‖²) of the
    best A·B = W is the nuclear norm.
    """

    phase = Phase.SHAPE

    decomposition: Literal["svd", "channel", "spatial"] = Field("svd", description="which matrix of a convolution")
    strength: float | dict[str, float] = Field(description="λ, or {pattern: λ}; others are left alone")
    every: int = Field(10, ge=1, description="steps of the optimizer from one proximal step to the next")
    finetune: Training = Field(description="the training in which ranks fall, by sgd")

    @field_validator("strength", mode="before")
    @classmethod
    def _strength(cls, value: Any) -> Any:
        return one_or_per_layer(value, "strength", 0, float("inf"))

    @field_validator("finetune")
    @classmethod
    def _by_sgd(cls, value: Training) -> Training:
        if value.optimizer != "sgd":
            raise ValueError(
                f"proximal steps need optimizer 'sgd', not '{value.optimizer}', which rescales gradients so that λ "
                "would differ from weight to weight"
            )
        return value

    def options_for(self) -> Iterable[str]:
        return tuple(self.strength) if isinstance(self.strength, Mapping) else ()

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        targets = match(model, self.targets, self.ignore)
        given = per_target(self.strength, targets)
        chosen: dict[Target, float] = {}
        for target in targets:
            reason = self._obstacle(target, given)
            if reason is None:
                chosen[target] = given[target.name]
            elif any(name in (*self.targets, *self.options_for()) for name in (target.name, target.slots[0].layer)):
                raise RecipeError(f"{self.method}: the rank of {target.name} cannot fall: {reason}")
            else:
                context.note(f"{target.name} is left as it is: {reason}")
        context.finetune(model, self.finetune, on_step=self._proximal(chosen))
        for target in chosen:
            if not bool(latent_of(target).isfinite().all()):
                raise ModelError(f"{target.name} holds NaN or infinity after training; lower the learning rate")
            found = [rank_of(matrix) for matrix in self._matrices(target)]
            most = min(self._matrices(target)[0].shape)
            context.note(f"{target.name}: rank {' and '.join(map(str, dict.fromkeys(found)))} of {most} is left")
        return model

    def _obstacle(self, target: Target, given: Mapping[str, float]) -> str | None:
        if target.name not in given:
            return "no strength is given for it"
        if form_of(target) is not None:
            return "it is compressed already"
        if not latent_of(target).requires_grad:
            return "it is frozen (requires_grad is off)"
        return refusal(target, self.decomposition)

    def _proximal(self, chosen: Mapping[Target, float]) -> Callable[[int, int], None]:
        """The proximal steps; they depend on the number of the step alone, so that a run can go on in the middle."""

        def on_step(step: int, steps: int) -> None:
            if step == 0 or (step % self.every and step != steps):
                return
            since = range((step - 1) // self.every * self.every, step)
            rate = sum(self._rate(each, steps) for each in since)
            for target, strength in chosen.items():
                self._shrink(target, rate * strength)

        return on_step

    def _rate(self, step: int, steps: int) -> float:
        """Of the optimizer's step that is number `step` + 1; momentum makes 1/(1 − μ) times as much of it."""
        return self.finetune.lr * rate_factor(self.finetune, step / steps) / (1 - self.finetune.momentum)

    @torch.no_grad()
    def _shrink(self, target: Target, amount: float) -> None:
        shape = parts_of(target)[0].shape
        near = [refold(self.decomposition, shrunk(matrix, amount), shape) for matrix in self._matrices(target)]
        latent_of(target).copy_(torch.cat(near))

    def _matrices(self, target: Target) -> Sequence[torch.Tensor]:
        return [unfold(self.decomposition, part)[0] for part in parts_of(target)]


def shrunk(matrix: torch.Tensor, amount: float) -> torch.Tensor:
    """The X that minimises ½‖X − W‖² + t·‖X‖_*: singular values of W less t, and those below it zero."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    nearest: torch.Tensor = u * (s - amount).clamp(min=0) @ vh
    return nearest


def rank_of(matrix: torch.Tensor) -> int:
    """Singular values beyond what rounding the weight to float32 makes of zeros."""
    values = torch.linalg.svdvals(matrix)
    return int((values > values[0] * max(matrix.shape) * torch.finfo(torch.float32).eps).sum()) if len(values) else 0
