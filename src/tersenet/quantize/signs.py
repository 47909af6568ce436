"""What quantizers ask of a weight, and how many values it may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.stage import Stage
from tersenet.forms import Binary, Target, Ternary, form_of, match, weight_of

Scale = Literal["tensor", "filter"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def match_matrices(model: nn.Module, stage: Stage) -> tuple[Target, ...]:
    """The weights that `stage` means in `model`; raises RecipeError for a vector, as a bias or a norm's scale is."""
    targets = match(model, stage.targets, stage.ignore)
    if vector := next((target for target in targets if target.vector), None):
        raise RecipeError(f"{stage.method} takes weights of two or more dimensions, and {vector.name} is a vector")
    return targets


def not_yet_signs(targets: Iterable[Target], note: Callable[[str], None]) -> list[Target]:
    """Those that are not binary or ternary: what is ±1 stays ±1, and what is ternary stays ternary."""
    found = []
    for target in targets:
        form = form_of(target)
        if isinstance(form, Binary | Ternary):
            note(f"{target.name} is {form.name} already; it is left as it is")
        else:
            found.append(target)
    return found


def not_settled(targets: Iterable[Target], note: Callable[[str], None]) -> list[Target]:
    """Those whose form does not say yet which few values they take."""
    found = []
    for target in targets:
        form = form_of(target)
        if form is None or form.distinct is None:
            found.append(target)
        else:
            note(f"{target.name} takes {form.distinct} values already ({form.name}); it is left as it is")
    return found


def signed_weight(target: Target) -> torch.Tensor:
    """The weight; raises ModelError where no signs can be taken from it."""
    weight = weight_of(target)
    if not bool(weight.isfinite().all()):
        raise ModelError(f"{target.name} holds NaN or infinity, which have no sign to keep; lower the learning rate")
    if not bool(weight.any()):
        raise ModelError(f"{target.name} holds zeros alone, from which no sign can be taken; leave it out by 'ignore'")
    return weight


def filters_axis(target: Target) -> int:
    """The axis of the weight along which its filters lie."""
    return 1 if isinstance(target.module, _TRANSPOSED) else 0


def scale_for(target: Target, wanted: Scale, values: Callable[[int], int], note: Callable[[str], None]) -> Scale | None:
    """`wanted`, or less where the weight has been promised to take fewer values; None where even one scale is too much.

    values: how many values there are with so many scales. note: told where it is not `wanted`.
    """
    form = form_of(target)
    room = float("inf") if form is None or form.distinct is None else form.distinct
    if wanted == "filter" and values(target.shape[filters_axis(target)]) <= room:
        return "filter"
    if values(1) > room:
        note(f"{target.name} takes {room} values already, fewer than this would give it; it is left as it is")
        return None
    if wanted == "filter":
        note(f"{target.name} takes {room} values already, too few for a scale for each filter; it gets one for all")
    return "tensor"
