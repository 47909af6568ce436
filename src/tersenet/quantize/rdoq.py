"""quantize.rdoq: the roundings for which what the loss rises by, and what the bits cost, is least; without training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Target, form_of, weight_of
from tersenet.forms.codebook import Precision
from tersenet.quantize.rounder import Rounder
from tersenet.quantize.searches import price_within
from tersenet.quantize.signs import match_matrices

Weighting = Literal["fisher", "outputs", "none"]


@register_stage("quantize.rdoq")
class RateDistortionQuantization(Stage):
    """Round each weight so that harm + price · bits is least, for networks that are not trained any more.

    The bits are those that an adaptive context coder would spend (`quantize.rates`), and steps are chosen by the bytes
    that the coder itself then writes. The harm is to second order that to the loss, the curvature being the inputs'
    second moments times the Fisher information of each output (Martens & Grosse 2015, arXiv 1503.05671). With
    `feedback`, columns are decided one after the other and those not yet decided make up for the errors so far, as in
    OBS and GPTQ (Frantar et al. 2022, arXiv 2210.17323), layer by layer with the inputs that the quantized layers
    before it give, and biases take the mean error. Rates in such a search: Wiedemann et al. 2020, "DeepCABAC", arXiv
    1907.11900, §3.3.
    """

    phase = Phase.VALUES

    price: float | None = Field(None, ge=0, description="harm per bit: with weighting fisher loss, for example 1e-6")
    bytes: int | None = Field(None, gt=0, description="in place of price: what the coded weights may take")
    weighting: Weighting = Field(
        "fisher", description="harm: rise of the loss; error of outputs, relative to them; or squared error of weights"
    )
    feedback: bool = Field(True, description="later columns of a layer, and biases, make up for errors of earlier ones")
    states: Literal[4, 8] | None = Field(
        None, description="dependent quantization, trellis-coded, with so many states; by default none"
    )
    step: float | None = Field(
        None, gt=0, description="in place of a search: of each weight, as a share of its standard deviation"
    )
    precision: Precision = Field("float16", description="of the steps")
    coder: Literal["auto", "best"] = Field("best", description="the file's, by which steps and bytes are measured")
    split: Literal["train", "validation"] = Field("train", description="calibration: where batches come from")
    batches: int = Field(32, ge=1, description="calibration: how many")
    batch_size: int = Field(128, ge=1, description="calibration: examples in each")
    finetune: Training | None = Field(None, description="trains the weights afterwards, through the rounding")

    @model_validator(mode="after")
    def _fits_together(self) -> RateDistortionQuantization:
        if (self.price is None) == (self.bytes is None):
            raise ValueError("needs either 'price', harm per bit, or 'bytes', what the coded weights may take")
        if self.price == 0 and self.step is None:
            raise ValueError("price 0 makes the finest step the best one; give a 'step'")
        if self.precision == "int8":
            raise ValueError("a step is one number; its precision is float32 or float16")
        if self.weighting == "none" and self.feedback and "feedback" in self.model_fields_set:
            raise ValueError("weighting 'none' looks at no data, by which 'feedback' goes; leave one of them out")
        return self

    def check(self, model: nn.Module) -> None:
        match_matrices(model, self)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        given = [target for target in match_matrices(model, self) if _rounds(target, context)]
        if given:
            rounder = Rounder(self, model, given, context)
            price = self.price if self.price is not None else self._price(rounder, context)
            found = rounder.round(price)
            context.note(
                f"{len(given)} weights take {found.bytes:,} bytes at a price of {price:.3g} a bit, and their rounding "
                f"is estimated to do a harm of {found.harm:.3g}"
            )
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _price(self, rounder: Rounder, context: RunContext) -> float:
        """The price at which the weights take the bytes that they may take; any, where no value counts."""
        assert self.bytes is not None
        if context.dry:
            return 0.0
        if (least := rounder.least_bytes()) > self.bytes:
            raise RecipeError(f"bytes: the weights take {least} when all of them are zero; give at least so many")
        return price_within(self.bytes, rounder.first_price(self.bytes), lambda price: rounder.round(price).bytes)


def _rounds(target: Target, context: RunContext) -> bool:
    """Whether the weight is one to be rounded; notes why not."""
    if not bool(weight_of(target).isfinite().all()):
        raise ModelError(f"{target.name} holds NaN or infinity and cannot be rounded; lower the learning rate")
    form = form_of(target)
    if form is not None and form.distinct is not None:
        context.note(f"{target.name} takes {form.distinct} values already ({form.name}); it is left as it is")
        return False
    return True
