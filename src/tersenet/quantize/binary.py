"""quantize.binary: weights of two values, ±1 or ±α."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Form, Target, attach, detach, form_of, latent_of
from tersenet.forms.binary import Binary
from tersenet.quantize.signs import filters_axis, match_matrices, not_yet_signs, scale_for, signed_weight


@register_stage("quantize.binary")
class Binarization(Stage):
    """Keep the sign of each weight, and train on the latent weight behind it.

    Courbariaux et al. 2015, "BinaryConnect", arXiv 1511.00363, algorithm 1 (`scale: none`); Rastegari et al. 2016,
    "XNOR-Net", arXiv 1603.05279, §3.1 (with a scale). With the model's activations binary too (`tersenet.models.Sign`,
    as in the zoo's `bnn`) this is the binarized network of Hubara et al. 2016, arXiv 1602.02830.

    The gradient passes the sign as if it were not there, and after each step of `finetune` the latents are clipped to
    ±bound, with a scale to ±1. What is pruned stays zero. Without a scale, latents start at the weight times what
    brings its largest entry to the bound, and a norm should follow the layer, or outputs grow with its inputs.
    """

    phase = Phase.VALUES

    scale: Literal["none", "tensor", "filter"] = Field(
        "filter", description="±1, or ±α with α the mean of |latent| of the weight or of each filter"
    )
    stochastic: bool = Field(
        False, description="scale none: while training, +1 with probability clip((latent/bound + 1)/2, 0, 1)"
    )
    bound: float | Literal["glorot"] = Field(
        "glorot",
        description="scale none: latents lie in ±bound and learn 1/bound times as fast (Adam; 1/bound² for SGD); "
        "glorot is √(1.5/(fan in + fan out))",
    )
    test: Literal["binary", "latent"] = Field(
        "binary", description="scale none: what is used and stored after training; latent is latent/bound, real-valued"
    )
    finetune: Training | None = Field(None, description="trains the latents, with biases and all that is not binary")

    @field_validator("bound", mode="before")
    @classmethod
    def _bound(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
        if not number and value != "glorot":
            raise ValueError(f"must be 'glorot' or a number greater than 0, not {value!r}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Binarization:
        for option in ("stochastic", "bound", "test"):
            given = getattr(self, option) != type(self).model_fields[option].default
            if given and self.scale != "none":
                raise ValueError(f"'{option}' goes with 'scale: none'")
            if given and self.finetune is None:
                raise ValueError(f"'{option}' says how to train and needs 'finetune'")
        return self

    def check(self, model: nn.Module) -> None:
        match_matrices(model, self)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        left = not_yet_signs(match_matrices(model, self), context.note)
        before = {target.name: form_of(target) for target in left}
        forms = {target: form for target in left if (form := self._binarize(target, context)) is not None}
        if self.finetune is not None:
            self._train(model, forms, context)
        if self.test == "latent":
            for target in forms:
                _real(target, before[target.name])
        return model

    def _binarize(self, target: Target, context: RunContext) -> Binary | None:
        signed_weight(target)
        old = form_of(target)
        if self.test == "latent" and old is not None and old.distinct is not None:
            raise RecipeError(f"'test: latent' would give {target.name} more than its {old.distinct} values")
        support = None if old is None else old.support
        wanted: Literal["tensor", "filter"] = "filter" if self.scale == "filter" else "tensor"
        scale = scale_for(target, wanted, lambda scales: 2 * scales + (support is not None), context.note)
        if scale is None:
            return None
        form = self._form(target, support, scale)
        attach(target, form)
        return form

    def _form(self, target: Target, support: torch.Tensor | None, scale: str) -> Binary:
        if self.scale == "none":
            bound = glorot(target.shape) if self.bound == "glorot" else float(self.bound)
            return Binary(torch.Size(target.shape), support=support, bound=bound, real=self.test == "latent")
        axis = filters_axis(target) if scale == "filter" else None
        return Binary(torch.Size(target.shape), support=support, scaled=True, axis=axis)

    def _train(self, model: nn.Module, forms: dict[Target, Binary], context: RunContext) -> None:
        """All that changes from step to step is in buffers and depends on the step alone, so that it can be resumed."""
        assert self.finetune is not None

        def on_step(step: int, steps: int) -> None:
            for target, form in forms.items():
                form.clip(latent_of(target))
                if self.stochastic:
                    form.draw.fill_(_seed(context.generator("binary", target.name, step)))

        context.finetune(model, self.finetune, on_step=on_step)
        for form in forms.values():
            form.draw.fill_(-1)


def glorot(shape: tuple[int, ...]) -> float:
    """√(1.5 / (fan in + fan out)): the inverse of BinaryConnect's scale of the learning rate (§2.5)."""
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape, device="meta"))
    return float((1.5 / (fan_in + fan_out)) ** 0.5)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (1,), generator=generator))


@torch.no_grad()
def _real(target: Target, old: Form | None) -> None:
    """The latents, divided by their bound, as the weight; under the form it had before."""
    form = form_of(target)
    assert isinstance(form, Binary)
    form.clip(latent_of(target))
    weight = latent_of(target).detach() / form.bound
    detach(target)
    latent_of(target).copy_(weight)
    if old is not None:
        attach(target, old)
