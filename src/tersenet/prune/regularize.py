"""prune.regularize: train with a penalty under which whole groups of weights become zero, and hold them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.registry import nearest
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Masked, Target, attach, form_of, latent_of, match, per_target, weight_of
from tersenet.forms.options import one_or_per_layer
from tersenet.graph.dead import remove_dead
from tersenet.prune.gammas import gammas, strength_of
from tersenet.prune.groups import FAMILIES, structure_of
from tersenet.prune.lasso import Term, penalty, shrink_all
from tersenet.train.schedules import rate_factor

Strength = float | dict[str, float]
"""λ for all weights, or {pattern: λ}."""

THRESHOLD = 1e-3
"""Below which a group's norm counts as zero after training by subgradients, where the recipe names none."""


@register_stage("prune.regularize")
class Regularization(Stage):
    """Train with loss + λ·Σ_g ‖w_g‖ so that whole groups reach exactly zero, then fine-tune what is left.

    Wen et al. 2016, "Learning Structured Sparsity in Deep Neural Networks", arXiv 1608.03665, §3 (group lasso over
    filters, channels, filter shapes and depth); Liu et al. 2017, "Network Slimming", arXiv 1708.06519, eq. 1 (L1 on
    the γ of batch norms); Yuan & Lin 2006 (group lasso, scaled by size).

    Families: `filters` W[n,:,:,:] (rows of a linear weight), `channels` W[:,c,:,:] (columns), `shapes` W[:,c,m,k],
    `depth` the whole weight of a layer (only with a shortcut around it), `elements` single entries, `bn` the γ of
    batch norms. `targets` speaks of all but `bn`, which means every batch norm that `ignore` does not name, or those
    that its own patterns name.

    Proximal: after each optimizer step at learning rate η with momentum μ, w_g ← w_g·max(0, 1 − ηλ/((1 − μ)‖w_g‖)),
    since momentum makes 1/(1 − μ) times as much of a lasting gradient; where it comes to rest, the loss with the
    penalty is stationary. Several families take their steps one after the other, which is their common proximal step
    where groups nest, but not where they cross (filters and channels): there it is only near it at small rates.
    Subgradient: λ·w_g/‖w_g‖ is added to the gradient, and groups below `threshold` become zero at the end.

    A batch norm makes up for the scale of each filter before it, so that a penalty on these filters shrinks them
    without end and without effect; there, penalise `bn`.
    """

    phase = Phase.SUPPORT

    penalty: dict[str, Strength] = Field(
        description="family → λ or {pattern: λ}: filters, channels, shapes, depth, elements, bn"
    )
    scaled_by_size: bool = Field(False, description="multiply λ by the square root of the size of each group")
    form: Literal["proximal", "subgradient"] = Field(
        "proximal", description="shrink groups after each step (exact zeros), or add to the gradient"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of `training` over which λ rises from zero")
    training: Training = Field(description="with the penalty; sgd for form proximal")
    threshold: float | None = Field(
        None, gt=0, description=f"subgradient: a group with a smaller norm becomes zero; default {THRESHOLD:g}"
    )
    mask: bool = Field(True, description="hold groups that are zero at zero from now on; false: leave plain zeros")
    remove: bool = Field(True, description="take channels out that are zero in all that makes, scales or reads them")
    finetune: Training | None = Field(None, description="afterwards, without the penalty")

    @field_validator("penalty", mode="before")
    @classmethod
    def _penalty(cls, value: Any) -> Any:
        known = ", ".join((*FAMILIES, "bn"))
        if not isinstance(value, Mapping) or not value:
            raise ValueError(f"give a strength for at least one of {known}, as {{filters: 1e-3}}")
        for family, strength in value.items():
            if family not in (*FAMILIES, "bn"):
                raise ValueError(f"there is no family '{family}'{nearest(str(family), (*FAMILIES, 'bn'))}")
            try:
                one_or_per_layer(strength, family, 0, float("inf"))
            except ValueError as error:
                raise ValueError(f"{family}: {error}") from None
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Regularization:
        proximal = self.form == "proximal"
        if proximal and self.training.optimizer != "sgd":
            raise ValueError(
                f"form 'proximal' needs a training with optimizer 'sgd', not '{self.training.optimizer}', which "
                "rescales gradients so that λ would differ from weight to weight; form 'subgradient' takes any"
            )
        if proximal and self.threshold is not None:
            raise ValueError("'threshold' belongs to form 'subgradient'; form 'proximal' gives exact zeros")
        if self.finetune is not None and not self.mask:
            raise ValueError("'finetune' needs 'mask: true', without which zeros would not last")
        return self

    def settles(self) -> Phase:
        return self.phase if self.mask else Phase.SHAPE

    def check(self, model: nn.Module) -> None:
        self._terms(model)

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        terms = _trainable(self._terms(model), context)
        self._note_unpenalised(model, context)
        if self.form == "proximal":
            context.finetune(model, self.training, on_step=self._proximal(terms))
        else:
            context.finetune(model, self.training, penalty=lambda step, steps: penalty(terms, self._share(step, steps)))
            for term in terms:
                term.zero_below(THRESHOLD if self.threshold is None else self.threshold)
        self._report(terms, context)
        if self.remove:
            remove_dead(model, context)
        if self.mask:
            self._hold_zeros(model, {term.target.name for term in terms})
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _terms(self, model: nn.Module) -> list[Term]:
        """Every family on every weight that it has a λ for, on each weight from the smallest groups to the largest.

        Raises RecipeError for patterns that fit nothing or clash, for vectors, and for `bn` without batch norms.
        """
        targets = self._targets(model)
        given = {family: _strengths(family, self.penalty[family], targets) for family in FAMILIES if self._has(family)}
        terms = [
            Term(target, family, strengths[target.name], self.scaled_by_size)
            for target in targets
            for family, strengths in given.items()
            if target.name in strengths
        ]
        if not self._has("bn"):
            return terms
        found = gammas(model, self.ignore)
        strengths = strength_of(self.penalty["bn"], found)
        return [*terms, *(Term(t, "elements", strengths[t.name]) for t in found if t.name in strengths)]

    def _has(self, family: str) -> bool:
        return family in self.penalty

    def _targets(self, model: nn.Module) -> tuple[Target, ...]:
        """What `targets` means to the families of weights; nothing where γ alone is penalised."""
        if set(self.penalty) == {"bn"}:
            return ()
        targets = match(model, self.targets, self.ignore)
        vector = next((target for target in targets if target.vector), None)
        if vector is not None:
            raise RecipeError(
                f"{vector.name} has one dimension and no such groups; for batch norms there is penalty.bn"
            )
        return targets

    def _note_unpenalised(self, model: nn.Module, context: RunContext) -> None:
        penalised = {term.target.name for term in self._terms(model)}
        for target in self._targets(model):
            if target.name not in penalised:
                context.note(f"{target.name} is left as it is, since no penalty is given for it")

    def _share(self, step: int, steps: int) -> float:
        """Of λ, in the step that is number `step` + 1 of `steps`."""
        return 1.0 if step >= self.warmup * steps else step / (self.warmup * steps)

    def _proximal(self, terms: list[Term]) -> Callable[[int, int], None]:
        """The proximal step at the rate of the optimizer's step just taken; depends on the step alone."""
        training = self.training

        def on_step(step: int, steps: int) -> None:
            if step > 0:
                rate = training.lr * rate_factor(training, (step - 1) / steps) / (1 - training.momentum)
                shrink_all(terms, rate * self._share(step - 1, steps))

        return on_step

    def _report(self, terms: list[Term], context: RunContext) -> None:
        """Say what is left of each weight; raises ModelError for one that is NaN or infinite."""
        for target in {term.target.name: term.target for term in terms}.values():
            if not bool(weight_of(target).isfinite().all()):
                raise ModelError(f"{target.name} holds NaN or infinity after training; lower the learning rate")
            left = structure_of(target)
            context.note(f"{left}")
            deep = any(term.family == "depth" for term in terms if term.target.name == target.name)
            if left.entries.left == 0 and not deep:
                context.note(f"{target.name} is zero altogether, so nothing passes through it; lower its penalty")

    def _hold_zeros(self, model: nn.Module, names: set[str]) -> None:
        """Mask the groups that are zero in the weights of these names, as large as they are now."""
        terms = [term for term in self._terms(model) if term.target.name in names]
        for target in {term.target.name: term.target for term in terms}.values():
            own = [term.alive() for term in terms if term.target.name == target.name]
            _hold(target, torch.stack(own).all(dim=0))


def _strengths(family: str, option: Strength, targets: tuple[Target, ...]) -> dict[str, float]:
    try:
        return per_target(option, targets)
    except RecipeError as error:
        raise RecipeError(f"penalty.{family}: {error}") from None


def _trainable(terms: list[Term], context: RunContext) -> list[Term]:
    """Without the weights that are frozen, which a note names."""
    frozen = dict.fromkeys(term.target.name for term in terms if not latent_of(term.target).requires_grad)
    for name in frozen:
        context.note(f"{name} is left as it is, since it is frozen (requires_grad is off)")
    if len(frozen) == len({term.target.name for term in terms}):
        raise ModelError("every weight that prune.regularize would penalise is frozen (requires_grad is off)")
    return [term for term in terms if term.target.name not in frozen]


def _hold(target: Target, kept: torch.Tensor) -> None:
    """Mask what is not kept, besides what an earlier stage has masked."""
    form = form_of(target)
    if isinstance(form, Masked):
        form.keep(form.mask & kept, latent_of(target))
    else:
        attach(target, Masked(kept))
