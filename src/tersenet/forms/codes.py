"""A whole model as codes, and codes into a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.forms.dense import encode_dense
from tersenet.forms.form import decode
from tersenet.forms.plain import encode_plain
from tersenet.forms.slots import Slot, slots

Precision = Literal["float32", "float16"]


class ModelCodes(Mapping[str, Code]):
    """Every tensor of `encode_model` by its name, each encoded when it is asked for, and not kept: a large model's
    codes would take as much memory as the model."""

    def __init__(self, model: nn.Module, small: Precision = "float16") -> None:
        self.slots = {slot.name: slot for slot in _first(model).values()}
        self.small = small

    def __getitem__(self, name: str) -> Code:
        return _encode(self.slots[name], getattr(torch, self.small))

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)


def encode_model(model: nn.Module, small: Precision = "float16") -> dict[str, Code]:
    """Every stored tensor once, under its plain name ('fc1.weight') and by its form.

    Of tensors without a form, parameters of fewer than two dimensions (biases, norms) and the running statistics of
    norms are rounded to `small` where they are wider and hardly change by it; all others are held exactly, by whatever
    is smallest. Shared tensors come under the first of their names; `aliases` has the others.

    Raises ModelError, with the tensor's name, for NaN and for what cannot be stored.
    """
    return dict(ModelCodes(model, small))


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every stored tensor once, under the names of `encode_model`, as the layers compute with it, detached."""
    return {slot.name: slot.weight for slot in _first(model).values()}


def aliases(model: nn.Module) -> dict[str, str]:
    """{other name: first name} of every tensor that goes by several names."""
    first = _first(model)
    return {s.name: first[id(s.holder)].name for s in slots(model) if s.name != first[id(s.holder)].name}


@torch.no_grad()
def load_codes(model: nn.Module, codes: Mapping[str, Code], aliases: Mapping[str, str] | None = None) -> None:
    """Write decoded tensors into `model`, freshly built and without forms.

    Raises ModelError, with the tensor's name, unless names, shapes and types agree exactly; ArtifactError for a code
    that contradicts itself.
    """
    aliases = dict(aliases or {})
    places = {slot.name: slot for slot in slots(model)}
    _same_names(set(places), set(codes) | set(aliases))
    source = {name: aliases.get(name, name) for name in places}
    _same_sharing(places, source)
    for name in codes:
        tensor = decode(codes[name])
        for place in (place for place in places if source[place] == name):
            _write(places[place], tensor)


def _first(model: nn.Module) -> dict[int, Slot]:
    found: dict[int, Slot] = {}
    for slot in slots(model):
        found.setdefault(id(slot.holder), slot)
    return found


def _encode(slot: Slot, small: torch.dtype) -> Code:
    try:
        if slot.form is not None:
            return slot.form.encode(slot.latent)
        if slot.latent.is_meta:
            raise ModelError("is on the meta device and has no values; build the model on a real one")
        return encode_dense(slot.latent, small) if _small(slot) else encode_plain(slot.latent)
    except ModelError as error:
        raise ModelError(f"{slot.name}: {error}") from None


def _small(slot: Slot) -> bool:
    """Biases, norms and their statistics; any other buffer may be a table that must stay what it is."""
    statistics = isinstance(slot.module, nn.modules.batchnorm._NormBase)
    return slot.latent.ndim < 2 and (statistics or isinstance(slot.latent, nn.Parameter))


def _same_names(model: set[str], file: set[str]) -> None:
    if missing := sorted(model - file):
        raise ModelError(f"the model has '{missing[0]}' but the file has not{_more(missing)}")
    if extra := sorted(file - model):
        raise ModelError(f"the file has '{extra[0]}' but the model has not{_more(extra)}")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _same_sharing(places: Mapping[str, Slot], source: Mapping[str, str]) -> None:
    """One tensor of the model cannot take two tensors of the file."""
    taken: dict[int, str] = {}
    for name, slot in places.items():
        if taken.setdefault(id(slot.holder), source[name]) != source[name]:
            raise ModelError(f"the model shares '{name}' with '{taken[id(slot.holder)]}' but the file has two of them")


def _write(slot: Slot, tensor: torch.Tensor) -> None:
    here = slot.latent
    if here.is_meta:
        raise ModelError(
            f"'{slot.name}' is on the meta device, where nothing can be stored; build the model on a real one"
        )
    if slot.form is not None:
        raise ModelError(f"'{slot.name}' already has a form; load into a freshly built model")
    if here.shape != tensor.shape or here.dtype != tensor.dtype:
        raise ModelError(
            f"'{slot.name}' is {here.dtype} of shape {tuple(here.shape)} in the model "
            f"and {tensor.dtype} of shape {tuple(tensor.shape)} in the file"
        )
    here.copy_(tensor)
