"""Where a model keeps its numbers: every parameter, stored buffer and formed weight under its plain name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from tersenet.core.errors import ModelError
from tersenet.forms.form import Form


@dataclass(frozen=True, eq=False)
class Slot:
    """One place: `module.attribute`, called `name` in the model ('fc1.weight', also where a form stands before it).

    holder: the tensor, or the list of parametrizations of a weight with a form. Two slots with the same holder are
        one shared (tied) tensor.
    within: the layer in whose place a chain of layers stands, this one among them; '' elsewhere.
    """

    name: str
    layer: str
    module: nn.Module
    attribute: str
    holder: torch.Tensor | ParametrizationList
    within: str = ""

    @property
    def form(self) -> Form | None:
        return _form(self.holder) if isinstance(self.holder, ParametrizationList) else None

    @property
    def latent(self) -> torch.Tensor:
        """What is trained: the parameter itself, or what its form starts from."""
        return self.holder.original if isinstance(self.holder, ParametrizationList) else self.holder

    @property
    def weight(self) -> torch.Tensor:
        """What the layer computes with, detached."""
        value: torch.Tensor = getattr(self.module, self.attribute)
        return value.detach()


def slots(model: nn.Module) -> Iterator[Slot]:
    """All places in order of registration, shared ones as often as they occur; buffers that are not stored left out.

    Raises ModelError for what no file can hold: parameters without a shape yet, and extra state.
    """
    yield from _slots(model, "")


def type_of(module: nn.Module) -> type[nn.Module]:
    """The module's class as the user wrote it, without what a parametrization put on top."""
    cls = type(module)
    return cls.__bases__[0] if is_parametrized(module) else cls


def _slots(module: nn.Module, layer: str, within: str = "") -> Iterator[Slot]:
    within = layer if getattr(module, "stands_for_layer", False) else within
    if type_of(module).get_extra_state is not nn.Module.get_extra_state:
        raise ModelError(f"layer '{layer}' keeps extra state beside its tensors, which cannot be stored")
    own = formed(module)
    for attribute, holder in [*module._parameters.items(), *_stored_buffers(module), *own.items()]:
        if holder is None:
            continue
        if isinstance(holder, UninitializedTensorMixin):
            raise ModelError(f"'{_join(layer, attribute)}' has no shape yet; run the model on one batch first")
        yield Slot(_join(layer, attribute), layer, module, attribute, holder, within)
    for name, child in module._modules.items():
        if child is None or (name == "parametrizations" and is_parametrized(module)):
            continue
        yield from _slots(child, _join(layer, name), within)
    yield from _foreign(module, layer, own)


def _stored_buffers(module: nn.Module) -> list[tuple[str, torch.Tensor | None]]:
    hidden = module._non_persistent_buffers_set
    return [(name, buffer) for name, buffer in module._buffers.items() if name not in hidden]


def formed(module: nn.Module) -> dict[str, ParametrizationList]:
    """The module's weights that have a form, by attribute."""
    if not is_parametrized(module):
        return {}
    lists = module.parametrizations.items()  # type: ignore[union-attr, operator]
    return {name: entry for name, entry in lists if _form(entry) is not None}


def _foreign(module: nn.Module, layer: str, own: dict[str, ParametrizationList]) -> Iterator[Slot]:
    """Parametrizations of the user's own (weight_norm, …) are part of the model and keep their names."""
    if not is_parametrized(module):
        return
    for name, entry in module.parametrizations.items():  # type: ignore[union-attr, operator]
        if name not in own:
            yield from _slots(entry, _join(_join(layer, "parametrizations"), name))


def _form(entry: ParametrizationList) -> Form | None:
    first = next(iter(entry.children()), None)
    return first if isinstance(first, Form) else None


def _join(layer: str, name: str) -> str:
    return f"{layer}.{name}" if layer else name
