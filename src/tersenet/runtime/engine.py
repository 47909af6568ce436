"""From a weight as a file holds it to the kernel that computes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.runtime.kernels.eie import pack_columns
from tersenet.runtime.kernels.lookup import pack_lookup, pack_product
from tersenet.runtime.kernels.semi_structured import pack_semi_structured
from tersenet.runtime.kernels.xnor import pack_signs

Activations = Literal["real", "signs"]


class Kernel(Protocol):
    """A linear layer's weight, ready to multiply."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def bytes(self) -> int:
        """What the packed weight takes in memory."""
        ...

    def __call__(self, x: Any) -> np.ndarray:
        """The product with `x` float32 [columns] or [batch, columns]; raises DataError for another shape or type."""
        ...


def compile_linear(code: Code, activations: Activations = "real") -> Kernel:
    """The kernel for a linear layer of weight `code` [rows, columns].

    Binary weights with activations that are signs: XNOR and counts of bits. 2:4: packed values. Product: looked-up
    partial sums. Shared, ternary, uniform or masked ones with zeros: sparse columns; without zeros: looked-up sums.
    Raises ModelError where no kernel computes with the form, or the weight has not two axes.
    """
    if len(code.shape) != 2:
        raise ModelError(f"a linear layer's weight has two axes, not the shape {list(code.shape)}")
    if code.form == "binary" and activations == "signs":
        return pack_signs(code)
    pack = PACKS.get(code.form)
    if pack is None:
        raise ModelError(f"no kernel computes with a weight of form '{code.form}'; {', '.join(PACKS)} have one")
    return pack(code)


def _by_zeros(code: Code) -> Kernel:
    """Sparse columns where entries are zero, else tables."""
    symbols = next(iter(code.streams.values()))
    return pack_columns(code) if symbols.zero else pack_lookup(code)


PACKS: dict[str, Callable[[Code], Kernel]] = {
    "binary": _by_zeros,
    "masked": pack_columns,
    "nm": pack_semi_structured,
    "product": pack_product,
    "shared": _by_zeros,
    "ternary": _by_zeros,
    "uniform": _by_zeros,
}
