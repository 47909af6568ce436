"""How much the error of each weight counts when a state dict is rounded: a file of numbers, named like the tensors."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from tersenet.core.errors import ModelError
from tersenet.flow.state_dicts import StateDict
from tersenet.flow.tensor_coding import can_be_rounded


class Importances:
    """Diagonals of the Fisher information, mean squared inputs, or whatever else says what a squared error costs.

    path: anything that `StateDict` reads. For each tensor of `state` that can be rounded it holds one that broadcasts
    to it, of finite numbers that are not negative, and not all zero; others are looked at alike, and not used. Only the
    proportions within a tensor matter.

    All of it is checked at once, before hours of rounding. Raises ModelError, in one sentence.
    """

    def __init__(self, path: Path, state: StateDict) -> None:
        self._file = StateDict(path)
        self.key = self._file.key
        try:
            self._check(state)
        except BaseException:
            self._file.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__()

    def of(self, name: str) -> torch.Tensor | None:
        """Broadcastable to the tensor `name`; None for those that are not rounded."""
        return self._read(name) if name in self._names else None

    def _read(self, name: str) -> torch.Tensor:
        return self._file[self._file.aliases.get(name, name)]

    def _check(self, state: StateDict) -> None:
        names = [*self._file.names, *self._file.aliases]
        if foreign := sorted(set(names) - set(state.names) - set(state.aliases)):
            raise ModelError(f"{self._file.path}: '{foreign[0]}' is no tensor of {state.path}")
        self._names = {name for name in state.names if can_be_rounded(state.described(name))}
        if missing := [name for name in state.names if name in self._names and name not in names]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ModelError(f"{self._file.path}: lacks importances of '{missing[0]}'{more}")
        for name in names:
            if wrong := _wrong(self._read(name), state.described(state.aliases.get(name, name))):
                raise ModelError(f"{self._file.path}: '{name}' {wrong}")


def _wrong(importance: torch.Tensor, tensor: torch.Tensor) -> str:
    """What is, or nothing."""
    last = zip(reversed(importance.shape), reversed(tensor.shape), strict=False)
    if importance.ndim > tensor.ndim or any(size not in (1, whole) for size, whole in last):
        return f"is of shape {list(importance.shape)}, which does not broadcast to the tensor's {list(tensor.shape)}"
    if importance.is_complex() or not bool(importance.isfinite().all()):
        return "holds NaN, infinity or complex numbers; importances are finite and real"
    if bool((importance < 0).any()):
        return "holds negative numbers; importances are 0 or more"
    if importance.numel() and not bool(importance.any()):
        return "is 0 throughout; give 1 throughout where nothing is known"
    return ""
