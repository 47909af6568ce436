"""`Contents`: what a `.terse` file holds, with nothing left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tersenet.core.change import Change
from tersenet.core.code import Code
from tersenet.core.errors import ArtifactError


@dataclass(frozen=True)
class Contents:
    """The model as codes, and where it came from. Two contents that are equal in all of this give equal files.

    tensors: every entry of the state dict under its plain name, in order.
    aliases: further names of tensors that are shared: other name → name in `tensors`.
    model: how to build the network, as plain JSON values; None if it was given as a Python object.
    recipe: the recipe that made it, as plain JSON values.
    versions: of the software that wrote it.
    data, data_digest: what the training data is called, and its digest (best as hexadecimal digits: half the bytes).
    seed: of the run.
    edits: module → its integers (channels, groups, heads) that differ from what the specification or the user's code
        gives, since channels were removed; or, for a module that was taken out, how many values it gave: 0 for one
        tensor, n for a tuple of n; or its `Change`, for one that another stands for. Where there are any edits,
        tensors are as large as they are here.
    graph: the network's operators without its weights, for models that no specification names (`graph/program.py`).
    """

    tensors: Mapping[str, Code]
    aliases: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    data: str = ""
    data_digest: str = ""
    seed: int = 0
    edits: dict[str, dict[str, int] | int | Change] = field(default_factory=dict)
    graph: dict[str, Any] = field(default_factory=dict)


def check_aliases(aliases: dict[str, str], names: set[str]) -> None:
    """Raises ArtifactError unless each alias is a new name for a tensor that is there."""
    for alias, name in aliases.items():
        if name not in names:
            raise ArtifactError(f"malformed: '{alias}' is said to be another name of '{name}', which is not there")
        if alias in names:
            raise ArtifactError(f"malformed: '{alias}' is both a tensor and another name of '{name}'")
