"""Putting a form on a weight and taking it off. A weight has one form; a new one takes over what the old one holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from tersenet.core.errors import ModelError, RecipeError
from tersenet.forms.form import Form
from tersenet.forms.targets import Target


def form_of(target: Target) -> Form | None:
    """The weight's form, None for a plain parameter."""
    entry = _entry(target)
    first = entry[0] if entry is not None else None
    return first if isinstance(first, Form) else None


def weight_of(target: Target) -> torch.Tensor:
    """What the layer computes with, detached."""
    weight: torch.Tensor = getattr(target.module, target.attribute)
    return weight.detach()


def latent_of(target: Target) -> nn.Parameter:
    """The parameter that an optimizer moves: what the form starts from, or the weight itself."""
    entry = _entry(target)
    parameter: nn.Parameter = getattr(target.module, target.attribute) if entry is None else entry.original
    return parameter


def attach(target: Target, form: Form) -> None:
    """Make `form` the form of the weight, in all places that share it.

    The parameter stays the same object with the same `requires_grad`, type and device; its data becomes the form's
    latent and its gradient is dropped. A form already there is taken off, and what it settled must hold on: its zeros.

    Raises RecipeError if the old form settles more than the new one could keep (pruning after weight sharing),
    ModelError for a scripted module, ValueError if the new form would give zeros back.
    """
    old = form_of(target)
    _refuse(target, old, form)
    if old is not None:
        detach(target)
    form.to(weight_of(target).device)
    (module, attribute), *others = target.owners
    getattr(module, attribute).grad = None
    _register(module, attribute, form)
    for other, name in others:
        _register(other, name, nn.Identity())
        _lists(other)[name] = _lists(module)[attribute]


def detach(target: Target) -> None:
    """Back to a plain parameter that holds the weight as it was computed; classes of layers as before."""
    (module, attribute), *others = target.owners
    for other, name in others:  # these get the parameter as it is; the first place then gives it the weight
        parametrize.remove_parametrizations(other, name, leave_parametrized=False)
    weight, parameter = weight_of(target), latent_of(target)
    parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    with torch.no_grad():
        parameter.set_(weight)  # type: ignore[call-overload]
    parameter.grad = None


def _entry(target: Target) -> Any:
    if not parametrize.is_parametrized(target.module, target.attribute):
        return None
    return _lists(target.module)[target.attribute]


def _lists(module: nn.Module) -> nn.ModuleDict:
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    return lists


def _refuse(target: Target, old: Form | None, new: Form) -> None:
    if any(isinstance(module, torch.jit.ScriptModule) for module, _ in target.owners):
        raise ModelError(f"{target.name} belongs to a scripted module; give the model before torch.jit")
    if old is None:
        return
    if new.phase < old.phase:
        raise RecipeError(f"{target.name} is already {old.name} and cannot become {new.name}; prune first")
    if old.support is not None and (new.support is None or bool((new.support & ~old.support).any())):
        raise ValueError(f"{target.name}: form '{new.name}' would let zeros of form '{old.name}' come back")


def _register(module: nn.Module, attribute: str, form: nn.Module) -> None:
    parametrize.register_parametrization(module, attribute, form, unsafe=True)  # a codebook has a shape of its own
    cls: Any = type(module)
    if not getattr(cls.__deepcopy__, "own_class", False):
        _copy_with_own_class(cls)


def _copy_with_own_class(cls: Any) -> None:
    """Let a deep copy have its own class: taking a form off removes a property from the class, the copy's only.

    Recurrent layers also keep a list of computed weights, which cannot be copied while it hangs on a graph.
    """
    inherited = cls.__deepcopy__

    def copy(self: Any, memo: dict[int, Any]) -> Any:
        flat = self.__dict__.get("_flat_weights")
        if flat is not None:
            self._flat_weights = [None if weight is None else weight.detach() for weight in flat]
        replica = inherited(self, memo)
        if type(replica) is type(self):
            original = type(self)
            replica.__class__ = type(original.__name__, original.__bases__, dict(vars(original)))
        return replica

    copy.own_class = True  # type: ignore[attr-defined]
    cls.__deepcopy__ = copy
