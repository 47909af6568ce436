"""What one stage established must survive the next: zeros stay zero, no weight takes more values than it had, and signs
stay signs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tersenet.forms import Binary, Form, Ternary, form_of, weight_of, weights


class BrokenPromiseError(AssertionError):
    """A method undid what an earlier one established: a bug of the method, never the user's mistake."""


@dataclass(frozen=True)
class Promise:
    """Of one weight: where it may differ from zero, how many values it may take, and the form of signs that stays."""

    support: torch.Tensor | None
    distinct: int | None
    signs: type[Form] | None


def promises(model: nn.Module) -> dict[str, Promise]:
    """What the forms of a model have settled, by weight name."""
    made = {}
    for target in weights(model):
        form = form_of(target)
        if form is None:
            continue
        support = None if form.support is None else form.support.detach().clone()
        made[target.name] = Promise(support, form.distinct, type(form) if isinstance(form, Binary | Ternary) else None)
    return made


def check_kept(before: dict[str, Promise], model: nn.Module, stage: str) -> None:
    """Raises BrokenPromiseError naming the weight if a stage undid what stood before it."""
    for target in weights(model):
        promise = before.get(target.name)
        if promise is None:
            continue
        weight = weight_of(target)
        if promise.support is not None and bool((weight[~promise.support.to(weight.device)] != 0).any()):
            raise BrokenPromiseError(f"{stage} brought pruned weights of {target.name} back")
        if promise.distinct is not None and int(torch.unique(weight).numel()) > promise.distinct:
            raise BrokenPromiseError(f"{stage} gave {target.name} more than its {promise.distinct} values")
        if promise.signs is not None and not isinstance(form_of(target), promise.signs):
            raise BrokenPromiseError(f"{stage} took the form '{promise.signs.name}' off {target.name}")
