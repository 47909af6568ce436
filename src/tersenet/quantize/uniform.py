"""quantize.uniform: weights become whole numbers of equal steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.errors import DataError, ModelError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Form, Target, Uniform, attach, form_of, per_target, weight_of
from tersenet.forms.options import one_or_per_layer
from tersenet.forms.signs import rows
from tersenet.quantize.calibration import Calibration
from tersenet.quantize.correction import BiasCorrection
from tersenet.quantize.mixed import Mixed, mixed_bits
from tersenet.quantize.ranges import Range, Scheme, grid
from tersenet.quantize.rounding import Adaptive, AdaptiveRounding
from tersenet.quantize.signs import filters_axis, match_matrices


@register_stage("quantize.uniform")
class UniformQuantization(Stage):
    """Round each weight to 2^bits equal steps, and train through the rounding.

    Jacob et al. 2018, arXiv 1712.05877, §2 and 3 (affine grids, straight-through training); Esser et al. 2020, "Learned
    Step Size Quantization", arXiv 1902.08153 (`learn_step`). Without `finetune` it is post-training quantization.

    With `rounding: adaptive` or `bias_correction`, layers are dealt with in the order in which the model computes, so
    that each makes up for the errors of those before it; other weights come first and are rounded to nearest.

    Zero is always one of the numbers, so that what is pruned stays exactly zero. The steps are fixed when the stage
    begins, unless they are learned.
    """

    phase = Phase.VALUES

    bits: int | dict[str, int] = Field(8, description="1 to 16, or {pattern: bits}; others are left alone")
    mixed: Mixed | None = Field(None, description="in place of bits: a budget, within which each weight gets its own")
    scheme: Scheme = Field(
        "symmetric", description="as many steps on both sides of zero, or those that cover the range"
    )
    per: Literal["channel", "tensor"] = Field("channel", description="a grid for each output channel, or one for all")
    range: Range = Field("mse", description="which range the grid covers")
    percentile: float = Field(99.9, gt=50, le=100, description="range percentile: what lies below it is covered")
    learn_step: bool = Field(False, description="train the steps too (LSQ)")
    step: Literal["float32", "float16"] = Field("float32", description="precision of the steps")
    rounding: Literal["nearest", "adaptive"] = Field(
        "nearest",
        description="to the nearest number, or up or down as keeps the outputs of linear layers, convolutions",
    )
    adaptive: Adaptive | None = Field(None, description="rounding adaptive: how roundings are found")
    bias_correction: bool = Field(False, description="shift biases so that outputs stay the same in the mean")
    split: Literal["train", "validation"] = Field("train", description="calibration: where batches come from")
    batches: int = Field(16, ge=1, description="calibration: how many")
    batch_size: int = Field(64, ge=1, description="calibration: examples in each")
    finetune: Training | None = Field(None, description="trains the weights through the rounding, with all the rest")

    @field_validator("bits", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        return one_or_per_layer(value, "bits", 1, 16, whole=True, open_=False)

    @model_validator(mode="after")
    def _fits_together(self) -> UniformQuantization:
        given = self.model_fields_set
        bits = list(self.bits.values()) if isinstance(self.bits, dict) else [self.bits]
        if self.mixed is not None:
            bits = list(self.mixed.choices)
            if "bits" in given:
                raise ValueError("'mixed' chooses the bits; leave out 'bits'")
        if self.scheme == "symmetric" and min(bits) < 2:
            raise ValueError("1 bit has no symmetric grid; use scheme 'affine', or quantize.binary")
        if "percentile" in given and self.range != "percentile":
            raise ValueError("'percentile' belongs to range 'percentile'")
        if self.range == "lsq" and self.scheme != "symmetric":
            raise ValueError("range 'lsq' is that of a symmetric grid; leave out 'scheme'")
        if self.range == "entropy" and max(bits) > 8:
            raise ValueError("range 'entropy' compares histograms, which are too coarse above 8 bits; use 'mse'")
        if self.learn_step and self.finetune is None:
            raise ValueError("'learn_step' needs 'finetune', in which steps are learned")
        return self

    @model_validator(mode="after")
    def _calibrates(self) -> UniformQuantization:
        if self.adaptive is not None and self.rounding != "adaptive":
            raise ValueError("'adaptive' belongs to rounding 'adaptive'")
        if self.learn_step and self.rounding == "adaptive":
            raise ValueError("rounding 'adaptive' is for steps that stay as they are; leave out 'learn_step'")
        idle = self.model_fields_set & {"split", "batches", "batch_size"}
        if idle and self.rounding == "nearest" and not self.bias_correction and self.mixed is None:
            raise ValueError(
                f"'{min(idle)}' is for calibration; ask for rounding 'adaptive', 'bias_correction' or 'mixed'"
            )
        return self

    def options_for(self) -> Iterable[str]:
        return tuple(self.bits) if isinstance(self.bits, dict) else ()

    def check(self, model: nn.Module) -> None:
        match_matrices(model, self)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        targets = match_matrices(model, self)
        bits = self._bits_of(model, targets, context)
        given = [target for target in targets if target.name in bits]
        for target in targets:
            if target not in given:
                why = "it takes few values already" if _settled(target) else "no bits are given for it"
                context.note(f"{target.name} is left as it is, since {why}")
        if (self.rounding == "adaptive" or self.bias_correction) and not context.dry:
            self._quantize_in_order(model, given, bits, context)
        else:
            for target in given:
                self._quantize(target, bits[target.name], context)
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _bits_of(self, model: nn.Module, targets: Sequence[Target], context: RunContext) -> dict[str, int]:
        if self.mixed is None:
            return per_target(self.bits, targets)
        mixed = self.mixed.model_copy(update={"by": "error"}) if context.dry else self.mixed
        batches = list(context.batches(self.split, self.batches, self.batch_size))
        if not batches and mixed.by != "error":
            raise DataError(
                f"{self.method}: measures harm on batches of the {self.split} data, and there are none; give at least "
                "one example"
            )
        left = [target for target in targets if _settled(target) is None]
        return mixed_bits(mixed, model, left, self._form, batches, context)

    def _quantize_in_order(
        self, model: nn.Module, targets: Sequence[Target], bits: dict[str, int], context: RunContext
    ) -> None:
        batches = [inputs for inputs, _ in context.batches(self.split, self.batches, self.batch_size)]
        if not batches:
            raise DataError(
                f"{self.method}: calibrates on batches of the {self.split} data, and there are none; give at least one "
                "example"
            )
        calibration = Calibration(model, targets, batches)
        correction = BiasCorrection(calibration, context.note) if self.bias_correction else None
        options = self.adaptive or Adaptive()
        adaptive = AdaptiveRounding(calibration, options, context) if self.rounding == "adaptive" else None
        for target in _others(targets, calibration, context):
            self._quantize(target, bits[target.name], context)
        for layer in calibration.layers:
            form = self._quantize(layer.target, bits[layer.target.name], context)
            if form is None:
                continue
            modules = correction.correctable(layer) if correction else []
            if adaptive:
                adaptive.adapt(layer, form, centred=len(modules) == len(layer.modules))
            if correction:
                correction.correct(layer, modules)

    def _quantize(self, target: Target, bits: int, context: RunContext) -> Uniform | None:
        """The weight's new form; None where it is left as it is."""
        if (old := _settled(target)) is not None:
            context.note(f"{target.name} takes {old.distinct} values already ({old.name}); it is left as it is")
            return None
        form = self._form(target, bits)
        attach(target, form)
        return form

    def _form(self, target: Target, bits: int) -> Uniform:
        weight, old = weight_of(target), form_of(target)
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be rounded; lower the learning rate")
        _check_type(target, weight, bits)
        axis = filters_axis(target) if self.per == "channel" else None
        step, low = grid(rows(weight, axis), bits, self.scheme, self.range, self.percentile)
        if self.step == "float16" and bool(((step.half().float() / step - 1).abs() > 0.01).any()):
            raise ModelError(
                f"{target.name}: steps from {float(step.min()):.2g} to {float(step.max()):.2g} do not fit float16; use "
                "step: float32"
            )
        return Uniform(
            step,
            low,
            2**bits,
            axis=axis,
            learned=self.learn_step,
            support=None if old is None else old.support,
            precision=self.step,
        )


def _settled(target: Target) -> Form | None:
    """The form that says already which few values the weight takes."""
    form = form_of(target)
    return form if form is not None and form.distinct is not None else None


def _check_type(target: Target, weight: torch.Tensor, bits: int) -> None:
    """Raises RecipeError where the weight's own type has fewer significant bits than are asked for."""
    holds = {torch.bfloat16: 8, torch.float16: 11}.get(weight.dtype, 16)
    if bits > holds:
        name = str(weight.dtype).removeprefix("torch.")
        raise RecipeError(f"{target.name} is {name}, which holds {holds} bits, fewer than {bits}; ask for no more")


def _others(targets: Iterable[Target], calibration: Calibration, context: RunContext) -> list[Target]:
    """Targets that are no layers for calibration; notes them."""
    layers = {layer.target for layer in calibration.layers}
    others = [target for target in targets if target not in layers]
    for target in others:
        context.note(
            f"{target.name} ({target.kind}) is rounded to nearest and no bias is corrected: it is not in use by linear "
            "layers or convolutions alone"
        )
    return others
