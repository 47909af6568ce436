"""`Change`: another module stands where one was, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from tersenet.core.registry import Registry

if TYPE_CHECKING:
    from torch import nn

CHANGES: Registry[Callable[[nn.Module, str, Mapping[str, int]], None]] = Registry("change of a module")
"""kind → what makes the change: `change(model, path, options)` puts the new module at `path`, built from what is there
and the options alone. It raises ModelError where they do not fit: options may come from a hostile file."""


class Change(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """kind: what was done, a name in `CHANGES`. options: all it needs to be done again.

    before: attribute → integer, the sizes that the module had been given before (channels had been removed).
    """

    kind: str
    options: dict[str, int]
    before: dict[str, int] = {}
