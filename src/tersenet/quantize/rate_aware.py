"""quantize.rate_aware: train for the file, with the bits of each weight in the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import nn

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Target, attach, detach, form_of, latent_of, weight_of, weights
from tersenet.forms.codebook import Precision
from tersenet.forms.rated import Rated
from tersenet.graph.arrange import order_alike
from tersenet.graph.dead import remove_dead
from tersenet.quantize.signs import match_matrices

GAIN, DAMPING = 20.0, 2.0
"""How the price follows the bytes: twice those that are wanted raise it by a factor of 2^DAMPING at once, and over all
steps by 2^GAIN."""

FIRST_PRICE = 1e-7
"""Before it follows."""

LOOKS, SETTLED, SLOPE = 50, 0.9, 1.0
"""Where it follows the error: so often is that looked at in a training, but not in what comes after this share of it,
where the learning rate is low and little moves; and the price rises by error wanted over error found, to this power."""


@register_stage("quantize.rate_aware")
class RateAware(Stage):
    """Minimise task loss + price · bits: the entropy coder's bits are part of what is trained.

    Oktay et al. 2020, "Scalable Model Compression by Entropy Penalized Reparameterization", arXiv 1906.06624, eq. 2;
    here on the weights themselves, with one learned step for each, and bits that are counted on the numbers as they
    are, by row, column and place of a kernel (`forms.rated`). What is not worth its bits becomes zero, whole rows and
    columns too.

    The price rises from zero over the first part of the training. With `bytes` in place of `price` it is adapted so
    that the estimate ends there. With `error` it rises while the validation error is lower and falls while it is
    higher; as errors fall once more with the last learning rates, what comes out is mostly a little below.
    """

    phase = Phase.VALUES

    price: float | None = Field(None, gt=0, description="loss per bit, for example 4e-6")
    bytes: int | None = Field(None, gt=0, description="in place of price: what the coded weights shall take")
    error: float | None = Field(None, gt=0, lt=1, description="in place of price: the validation error to end near")
    ramp: float = Field(0.5, ge=0, lt=1, description="share of the training over which the price rises from zero")
    step: float = Field(0.5, gt=0, description="first step, as a share of the weight's standard deviation")
    remove: bool = Field(True, description="take channels out that are zero in all that makes, scales or reads them")
    order: bool = Field(True, description="put channels that are alike next to each other, where the coder sees it")
    biases: bool = Field(True, description="the layers' biases as well")
    precision: Precision = Field("float16", description="of the steps")
    finetune: Training = Field(description="the training with bits in its loss")

    @model_validator(mode="after")
    def _one_aim(self) -> RateAware:
        if sum(aim is not None for aim in (self.price, self.bytes, self.error)) != 1:
            raise ValueError(
                "needs one of 'price', loss per bit, 'bytes', what the coded weights shall take, and 'error'"
            )
        return self

    def check(self, model: nn.Module) -> None:
        match_matrices(model, self)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        targets = [*match_matrices(model, self)]
        targets += _biases(model, targets) if self.biases else []
        if self.error is not None and "error" not in context.evaluate(model):
            raise RecipeError(f"{self.method}: 'error' is that of a classifier, but the data's targets are no classes")
        rated = {target: form for target in targets if (form := self._rate(target, context)) is not None}
        if not rated:
            return model
        price = _Price(self, model, rated, context)
        model.register_buffer(PRICE, price.value)  # in the model's state, so that a resumed training goes on with it
        context.finetune(model, self.finetune, penalty=price.penalty, on_step=price.follow)
        delattr(model, PRICE)
        context.note(f"{float(price.bits().detach()) / 8:,.0f} bytes are estimated for {len(rated)} tensors")
        self._settle(model, rated, context)
        return model

    def _settle(self, model: nn.Module, rated: dict[Target, Rated], context: RunContext) -> None:
        """Channels that became zero go, the others are ordered, and the forms that stay take the place of those that
        were trained."""
        for target, form in rated.items():
            if (self.remove or self.order) and form.support is None:
                detach(target)  # for now: channels go and move only where no form holds them
            else:
                attach(target, form.plain(latent_of(target)))
        if self.remove:
            remove_dead(model, context)
        if self.order:
            order_alike(model, context)
        forms = {target.name: form for target, form in rated.items()}
        for target in weights(model):
            if target.name in forms and form_of(target) is None:
                attach(target, forms[target.name].plain(latent_of(target)))

    def _rate(self, target: Target, context: RunContext) -> Rated | None:
        weight, old = weight_of(target), form_of(target)
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be rounded; lower the learning rate")
        if old is not None and old.distinct is not None:
            context.note(f"{target.name} takes {old.distinct} values already ({old.name}); it is left as it is")
            return None
        spread = float(weight.float().square().mean().sqrt()) or 1.0
        form = Rated(weight, self.step * spread, support=None if old is None else old.support, precision=self.precision)
        attach(target, form)
        return form


PRICE = "_price_per_bit"


class _Price:
    """What a bit costs at each step. value: [2], the price, and the bytes of the first step (0 before it)."""

    def __init__(self, stage: RateAware, model: nn.Module, rated: dict[Target, Rated], context: RunContext) -> None:
        self.stage, self.model, self.rated, self.context = stage, model, rated, context
        device = next(iter(rated.values())).log_step.device
        self.value = torch.tensor([stage.price if stage.price is not None else FIRST_PRICE, 0.0], device=device)
        self.spent = torch.zeros((), device=device)

    def bits(self) -> torch.Tensor:
        return torch.stack([form.bits(latent_of(target)) for target, form in self.rated.items()]).sum()

    def penalty(self, step: int, steps: int) -> torch.Tensor:
        bits = self.bits()
        self.spent = bits.detach() / 8
        risen = self._risen(step, steps)
        if self.stage.bytes is None:
            return self.value[0] * bits * risen
        return self.value[0] * self._excess(risen).pow(DAMPING) * bits

    def follow(self, step: int, steps: int) -> None:
        """Where bytes were asked for: from those of the first step down to these over the ramp, evenly in logarithm.
        Where an error was: up while there is room below it."""
        if self.stage.bytes is not None and step > 0:
            self.value[0].mul_(self._excess(self._risen(step, steps)).pow(GAIN / steps))
        due = 0 < step <= SETTLED * steps and step * LOOKS // steps > (step - 1) * LOOKS // steps
        if self.stage.error is not None and due:
            found = max(self.context.evaluate(self.model)["error"], self.stage.error / 8)
            self.value[0].mul_(min(max((self.stage.error / found) ** SLOPE, 2 / 3), 1.5))

    def _risen(self, step: int, steps: int) -> float:
        """How far along the ramp, from 0 to 1."""
        return min(1.0, step / (self.stage.ramp * steps)) if self.stage.ramp else 1.0

    def _excess(self, risen: float) -> torch.Tensor:
        """Bytes spent over bytes wanted."""
        assert self.stage.bytes is not None
        if not self.value[1]:
            self.value[1] = self.spent
        wanted = self.value[1] * (self.stage.bytes / self.value[1]).pow(risen)
        return (self.spent / wanted).clamp(1e-2, 1e2)


def _biases(model: nn.Module, targets: Sequence[Target]) -> list[Target]:
    """Vectors of the targets' own layers."""
    modules = {id(slot.module) for target in targets for slot in target.slots}
    return [t for t in weights(model) if t.vector and id(t.module) in modules and t.attribute.startswith("bias")]
