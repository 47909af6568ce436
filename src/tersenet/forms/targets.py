"""Which weights a stage means: shell patterns on weights, layers and layer classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from tersenet.core.errors import ModelError, RecipeError
from tersenet.core.registry import nearest
from tersenet.forms.slots import Slot, formed, slots, type_of

V = TypeVar("V")

DEFAULT = (
    *(nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""Layers whose weights are meant when a stage names no targets."""


@dataclass(frozen=True, eq=False)
class Target:
    """One weight, however many layers share it.

    name: as in the state dict of the plain model, 'fc1.weight'; where it is shared, the first of its names.
    module, attribute: the first place; `owners` has all of them.
    kind: class of the first layer.
    aliases: the other names.
    """

    name: str
    module: nn.Module
    attribute: str
    kind: str
    aliases: tuple[str, ...]
    owners: tuple[tuple[nn.Module, str], ...]
    shape: tuple[int, ...]
    slots: tuple[Slot, ...]

    @property
    def vector(self) -> bool:
        """Fewer than two dimensions: a bias, a norm's scale."""
        return len(self.shape) < 2

    def matches(self, pattern: str) -> bool:
        """Whether `pattern` fits the weight's name, its layer's, or its layer's class or a base class of it.

        A vector answers to its exact name only, so that 'fc1.*' does not mean the bias.
        """
        if self.vector:
            return pattern in (self.name, *self.aliases)
        return any(fnmatchcase(word, pattern) for slot in self.slots for word in _words(slot))


def match(model: nn.Module, targets: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Target, ...]:
    """The weights that some pattern of `targets` fits and none of `ignore`, in the model's order.

    A weight is a floating-point parameter of two or more dimensions (one with fewer is meant only by its exact
    name). Without `targets`: those of the layers in `DEFAULT`.

    Raises RecipeError for a pattern that fits nothing, with the nearest name, and if nothing is left; ModelError for
    a weight that already has a parametrization of the user's own.
    """
    known = [*weights(model), *_foreign(model)]
    chosen = _union(known, targets) if targets else [t for t in known if _default(t)]
    left_out = {target.name for target in _union(known, ignore)}
    chosen = [target for target in chosen if target.name not in left_out]
    if own := [target for target in chosen if _is_foreign(target)]:
        raise ModelError(
            f"{own[0].name} already has a parametrization of its own; leave it out with 'ignore', or remove it with "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if not chosen:
        reason = "every target is also in 'ignore'" if targets or ignore else "the model has no layer of a usual kind"
        raise RecipeError(f"nothing to work on: {reason}")
    return tuple(chosen)


def weights(model: nn.Module) -> tuple[Target, ...]:
    """Every floating-point parameter that is not empty, shared ones once."""
    groups: dict[int, list[Slot]] = {}
    for slot in slots(model):
        if isinstance(slot.latent, nn.Parameter) and slot.latent.is_floating_point():
            groups.setdefault(id(slot.holder), []).append(slot)
    targets = (_target(group) for group in groups.values())
    return tuple(target for target in targets if math.prod(target.shape))


def per_target(option: V | Mapping[str, V], targets: Iterable[Target]) -> dict[str, V]:
    """{weight name: value} from one value for all, or from a mapping of patterns.

    A weight that no pattern fits is missing in the answer. Raises RecipeError for a pattern that fits none of the
    targets and for a weight that two patterns fit.
    """
    targets = tuple(targets)
    if not isinstance(option, Mapping):
        return {target.name: option for target in targets}
    check_patterns(tuple(option), targets)
    return {t.name: value for t in targets for pattern, value in option.items() if t.matches(pattern)}


def check_patterns(patterns: Sequence[str], targets: Sequence[Target]) -> None:
    """Raises RecipeError unless each pattern fits some target and each target is fitted by at most one."""
    _union(targets, patterns)
    for target in targets:
        fitting = [pattern for pattern in patterns if target.matches(pattern)]
        if len(fitting) > 1:
            given = " and ".join(f"'{pattern}'" for pattern in fitting)
            raise RecipeError(f"{target.name} is given twice, by {given}; keep one of them")


def _target(group: list[Slot]) -> Target:
    first = group[0]
    owners = {(id(slot.module), slot.attribute): (slot.module, slot.attribute) for slot in group}
    aliases = tuple(slot.name for slot in group[1:])
    kind, shape = type_of(first.module).__name__, tuple(first.weight.shape)
    return Target(first.name, first.module, first.attribute, kind, aliases, tuple(owners.values()), shape, tuple(group))


def _foreign(model: nn.Module) -> list[Target]:
    """Weights that the user has parametrized (weight_norm, …), so that they are not passed over without a word."""
    found = []
    for layer, module in model.named_modules():
        if not is_parametrized(module):
            continue
        for attribute in module.parametrizations:  # type: ignore[union-attr]
            name = f"{layer}.{attribute}" if layer else attribute
            target = _target([Slot(name, layer, module, attribute, getattr(module, attribute))])
            found += [target] if _is_foreign(target) else []
    return found


def _is_foreign(target: Target) -> bool:
    return is_parametrized(target.module, target.attribute) and target.attribute not in formed(target.module)


def _words(slot: Slot) -> list[str]:
    """What a pattern may fit; layers of a chain also answer to the name of the layer they stand for."""
    classes = [cls.__name__ for cls in type_of(slot.module).__mro__ if issubclass(cls, nn.Module)]
    former = [slot.within] if slot.within else []
    return [slot.name, slot.layer, *former, *classes[: classes.index("Module")]]


def _union(known: Sequence[Target], patterns: Sequence[str]) -> list[Target]:
    for pattern in patterns:
        if not any(target.matches(pattern) for target in known):
            raise RecipeError(f"'{pattern}' matches no weight{_hint(pattern, known)}")
    return [target for target in known if any(target.matches(pattern) for pattern in patterns)]


def _default(target: Target) -> bool:
    usual = any(isinstance(slot.module, DEFAULT) for slot in target.slots)
    return usual and not target.vector and not target.attribute.startswith("bias")  # bias_k of attention: 1 × 1 × n


def _hint(pattern: str, known: Sequence[Target]) -> str:
    """The nearest name; for a container, the pattern for what is inside; else some of what there is."""
    large = [target for target in known if not target.vector]
    words = {word for target in large for slot in target.slots for word in _words(slot) if word}
    if any(word.startswith(f"{pattern}.") for word in words):
        return f"; did you mean '{pattern}.*'?"
    near = nearest(pattern, words)
    if near.startswith("; did you mean"):
        return near
    names = [target.name for target in large]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"; there are: {shown}" if names else ""
