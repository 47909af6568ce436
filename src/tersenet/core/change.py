"""`Change`: another module stands where one was, as plain values."""

from __future__ import annotations

import msgspec


class Change(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """kind: what was done, a name in `graph.edits.CHANGES`. options: all it needs to be done again.

    before: attribute → integer, the sizes that the module had been given before (channels had been removed).
    """

    kind: str
    options: dict[str, int]
    before: dict[str, int] = {}
