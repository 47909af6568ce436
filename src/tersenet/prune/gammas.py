"""The scales γ of batch norms, one for each channel (Network Slimming, Liu et al. 2017, arXiv 1708.06519, §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.core.registry import nearest
from tersenet.forms import Target, weights
from tersenet.prune.groups import is_gamma


def gammas(model: nn.Module, ignore: Sequence[str] = ()) -> tuple[Target, ...]:
    """γ of every batch norm whose name, layer or class fits no pattern of `ignore`; RecipeError where there is none."""
    found = tuple(target for target in weights(model) if is_gamma(target))
    kept = tuple(target for target in found if not any(_fits(target, pattern) for pattern in ignore))
    if not kept:
        why = "'ignore' leaves out every batch norm" if found else "the model has no batch norm with a γ"
        raise RecipeError(f"penalty.bn: {why}")
    return kept


def strength_of(option: float | Mapping[str, float], found: Sequence[Target]) -> dict[str, float]:
    """{name of γ: λ} from one λ, or from a mapping of patterns on the names, layers and classes of batch norms.

    Raises RecipeError for a pattern that fits none, and for a γ that two fit.
    """
    if not isinstance(option, Mapping):
        return {target.name: option for target in found}
    chosen: dict[str, float] = {}
    for pattern, strength in option.items():
        fitting = [target.name for target in found if _fits(target, pattern)]
        if not fitting:
            layers = {target.slots[0].layer for target in found}
            raise RecipeError(f"penalty.bn: '{pattern}' matches no batch norm{nearest(pattern, layers)}")
        if twice := [name for name in fitting if name in chosen]:
            raise RecipeError(f"penalty.bn: {twice[0]} is given twice, by '{pattern}' and by another pattern")
        chosen |= dict.fromkeys(fitting, strength)
    return chosen


def _fits(target: Target, pattern: str) -> bool:
    words = [target.kind, *(word for slot in target.slots for word in (slot.name, slot.layer))]
    return any(fnmatchcase(word, pattern) for word in words)
