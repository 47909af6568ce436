"""`Form`: how one weight is represented. Its forward is the weight the layer computes with, so a form trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from torch import nn

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.core.registry import Registry
from tersenet.core.stage import Phase
from tersenet.forms.tables import from_table


class Form(nn.Module):
    """A parametrization of one weight (`torch.nn.utils.parametrize`).

    The latent is what the optimizer moves: the parameter `original` of the parametrization. Everything else that
    evolves is a buffer, so that `state_dict` holds all of it.

    - `forward(latent)`: the weight, with straight-through gradients where a step has none.
    - `right_inverse(weight)`: the latent whose forward is the nearest to `weight` that this form can hold.
    - `encode(latent)`: integer streams and small tables; `decode` gives the forward back bit for bit.
    """

    name: ClassVar[str] = ""
    phase: ClassVar[Phase]

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def encode(self, latent: torch.Tensor) -> Code:
        """Raises ModelError where the weight holds NaN."""
        raise NotImplementedError

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        """Raises ArtifactError where the code does not describe a weight."""
        raise NotImplementedError

    @property
    def support(self) -> torch.Tensor | None:
        """Boolean tensor of the weight's shape: which entries may differ from zero. None: all of them."""
        return None

    @property
    def distinct(self) -> int | None:
        """How many different values the entries can take at most, zero included. None: any number."""
        return None


FORMS: Registry[type[Form]] = Registry("form")

F = TypeVar("F", bound=type[Form])


def register_form(name: str) -> Callable[[F], F]:
    def add(cls: F) -> F:
        cls.name = name
        FORMS.register(name)(cls)
        return cls

    return add


def decode(code: Code) -> torch.Tensor:
    """The weight of `code`, on the CPU, bit for bit what the form's forward gave when it was encoded.

    Raises ArtifactError if the form is not known or the code contradicts itself.
    """
    if code.form not in FORMS:
        raise ArtifactError(f"a tensor has the unknown form '{code.form[:40]}'; this version knows {', '.join(FORMS)}")
    return FORMS[code.form].decode(code)


def stream(code: Code, name: str) -> Symbols:
    """The named stream, or ArtifactError."""
    if name not in code.streams:
        raise ArtifactError(f"a tensor of form '{code.form}' lacks its stream '{name}'")
    return code.streams[name]


def table(code: Code, name: str) -> torch.Tensor:
    """The named table in the code's dtype, one dimension, or ArtifactError."""
    if name not in code.tables:
        raise ArtifactError(f"a tensor of form '{code.form}' lacks its table '{name}'")
    return from_table(code.tables[name], code.dtype)


def refuse_nan(values: torch.Tensor) -> None:
    """Raises ModelError: NaN means that training has failed, and no file should hold it."""
    if (values.is_floating_point() or values.is_complex()) and bool(torch.isnan(values).any()):
        raise ModelError("holds NaN; the training diverged, so lower the learning rate")
