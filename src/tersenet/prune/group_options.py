"""Which groups of channels a stage means, and options that are one number or a number for each of some groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from tersenet.core.errors import RecipeError
from tersenet.core.registry import nearest
from tersenet.forms import match
from tersenet.graph import Group
from tersenet.graph.reasons import layer_of

V = TypeVar("V", int, float)


def layers_of(group: Group) -> list[str]:
    """The group's name and the layers whose outputs are its channels."""
    return list(dict.fromkeys([group.name, *(layer_of(member.tensor) for member in group.by_role("out"))]))


def targeted(
    model: nn.Module, groups: Iterable[Group], targets: Sequence[str], ignore: Sequence[str]
) -> tuple[Group, ...]:
    """Groups made by layers in `targets` (all, if there are none), and by none in `ignore`."""
    made = tuple(group for group in groups if any(True for _ in group.by_role("out")))
    if not targets and not ignore:
        return made
    known = {name for target in match(model, targets, ignore) for name in (target.name, *target.aliases)}
    spared = {name for t in match(model, ignore) for name in (t.name, *t.aliases)} if ignore else set()
    makers = {group: {member.tensor for member in group.by_role("out")} for group in made}
    return tuple(group for group in made if makers[group] & known and not makers[group] & spared)


def per_group(option: V | Mapping[str, V], groups: Sequence[Group], method: str) -> dict[str, V]:
    """Group's name → value. A pattern is the name of one group, or fits layers whose outputs are channels of groups.

    Raises RecipeError for a pattern that fits no group, and where two give one group different values.
    """
    if not isinstance(option, Mapping):
        return {group.name: option for group in groups}
    found: dict[str, V] = {}
    by: dict[str, str] = {}
    for pattern, value in option.items():
        fitting = [group for group in groups if group.name == pattern] or [
            group for group in groups if any(fnmatchcase(word, pattern) for word in layers_of(group))
        ]
        if not fitting:
            words = [word for group in groups for word in layers_of(group)]
            raise RecipeError(f"{method}: '{pattern}' makes no group of channels{nearest(pattern, words)}")
        for group in fitting:
            if found.get(group.name, value) != value:
                raise RecipeError(
                    f"{method}: '{group.name}' is given {found[group.name]:g} by '{by[group.name]}' and {value:g} by "
                    f"'{pattern}', but these channels can only go together"
                )
            found[group.name], by[group.name] = value, pattern
    return found


def check_patterns(option: object, model: nn.Module, method: str) -> None:
    """Raises RecipeError for a pattern that no layer of `model` fits; which layers make channels is known later."""
    words = [*dict(model.named_modules()), *(name for name, _ in model.named_parameters())]
    for pattern in option if isinstance(option, Mapping) else ():
        plain = pattern.partition("#")[0].partition("[")[0]
        if not any(fnmatchcase(word, pattern) or word == plain for word in words):
            raise RecipeError(f"{method}: '{pattern}' is no layer of the model{nearest(pattern, words)}")
