"""quantize.ternary: weights of three values, one of them zero."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Target, attach, form_of
from tersenet.forms.ternary import Of, Ternary
from tersenet.quantize.signs import Scale, filters_axis, match_matrices, not_yet_signs, scale_for, signed_weight


@register_stage("quantize.ternary")
class Ternarization(Stage):
    """Weights near zero become zero; the others one value below it and one above.

    fixed: ±α, where α is the mean of |latent| beyond the threshold, 0.7 · mean |latent| (Li & Liu 2016, "Ternary
    weight networks", arXiv 1605.04711, eq. 5 and 6). trained: both values are trained, and the threshold is
    0.05 · max |latent| (Zhu et al. 2017, "Trained ternary quantization", arXiv 1612.01064, eq. 6 to 9); they start at
    the means of the weights they stand for.

    Zeros are settled anew in each step. What was pruned before stays zero and counts in no mean.
    """

    phase = Phase.VALUES

    values: Literal["fixed", "trained"] = Field("trained", description="how the two values come about")
    threshold: float | None = Field(
        None, gt=0, lt=1, description="fixed: over mean |latent|, default 0.7; trained: over its largest, default 0.05"
    )
    sparsity: float | None = Field(
        None, gt=0, lt=1, description="in place of threshold: this share is zero, pruned weights counted"
    )
    scale: Scale = Field("tensor", description="one threshold and pair of values for the weight or for each filter")
    finetune: Training | None = Field(None, description="trains latents and values, with all that is not ternary")

    @model_validator(mode="after")
    def _one_of_two(self) -> Ternarization:
        if self.threshold is not None and self.sparsity is not None:
            raise ValueError("give one of 'threshold' and 'sparsity'")
        return self

    def check(self, model: nn.Module) -> None:
        match_matrices(model, self)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        for target in not_yet_signs(match_matrices(model, self), context.note):
            self._ternarize(target, context)
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _ternarize(self, target: Target, context: RunContext) -> None:
        weight, old = signed_weight(target), form_of(target)
        scale = scale_for(target, self.scale, lambda scales: 2 * scales + 1, context.note)
        if scale is None:
            return
        threshold, of = self._threshold
        form = Ternary(
            weight.shape,
            threshold,
            of,
            axis=filters_axis(target) if scale == "filter" else None,
            support=None if old is None else old.support,
            start=weight if self.values == "trained" else None,
        )
        attach(target, form)

    @property
    def _threshold(self) -> tuple[float, Of]:
        if self.sparsity is not None:
            return self.sparsity, "share"
        if self.values == "fixed":
            return self.threshold or 0.7, "mean"
        return self.threshold or 0.05, "largest"
