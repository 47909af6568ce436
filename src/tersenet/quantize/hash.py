"""quantize.hash: entries share values at random, by a hash of their place."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.stage import Phase, RunContext, Stage, register_stage
from tersenet.core.training import Training
from tersenet.forms import Hashed, Target, attach, form_of, match, per_target, weight_of
from tersenet.forms.options import one_or_per_layer
from tersenet.quantize.signs import not_settled


@register_stage("quantize.hash")
class HashedSharing(Stage):
    """Let entries share a few values at random, so that nothing but these is stored, and train them.

    HashedNets: Chen et al. 2015, "Compressing Neural Networks with the Hashing Trick", arXiv 1504.04788. The paper
    trains from the start with shared values (give no `train`, and all of it as `finetune`); after training, the values
    begin as signed means of the entries that share them. Without `finetune` little of the network is left.
    """

    phase = Phase.VALUES

    share: float | dict[str, float] = Field(
        description="values over entries, in (0, 1], or {pattern: share}; others are left alone"
    )
    finetune: Training | None = Field(None, description="trains the values, with all that is not hashed")

    @field_validator("share", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        return one_or_per_layer(value, "share", 0, 1.0 + 1e-12)

    def options_for(self) -> Iterable[str]:
        return tuple(self.share) if isinstance(self.share, dict) else ()

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        targets = match(model, self.targets, self.ignore)
        shares = per_target(self.share, targets)
        for target in not_settled(targets, context.note):
            if target.name in shares:
                self._hash(target, shares[target.name], context)
            else:
                context.note(f"{target.name} is left as it is, since no share is given for it")
        if self.finetune is not None:
            context.finetune(model, self.finetune)
        return model

    def _hash(self, target: Target, share: float, context: RunContext) -> None:
        weight, form = weight_of(target), form_of(target)
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{target.name} holds NaN or infinity and cannot be hashed; lower the learning rate")
        seed = int(torch.randint(2**31, (1,), generator=context.generator("hash", target.name)))
        buckets = max(round(share * prod(target.shape)), 1)
        attach(target, Hashed(weight.shape, buckets, seed, None if form is None else form.support))
