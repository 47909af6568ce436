"""Choosing a coder by real bytes, and the way back."""

from __future__ import annotations

import numpy as np

from tersenet.coding.base import CODERS, Coder, CodingError, Encoded, Plan
from tersenet.core.code import Symbols
from tersenet.core.errors import RecipeError
from tersenet.core.registry import nearest

AUTO = "auto"
BEST = "best"

LARGE = 2**16
"""Bytes from which on a coder is not tried that should save less than one in 4096: it would cost as much time again."""


def encode(symbols: Symbols, coder: str = AUTO) -> Encoded:
    """The smallest payload among the coders that `coder` names: one of them, a family, all (`best`),
    or all that are fast (`auto`).

    Equal sizes go to the lower id, so the choice is the same every time; of large payloads, sizes that differ by less
    than one in 4096 count as equal. Symbols that no coder of a family takes (more
    than a million distinct ones) are written raw; `Encoded.coder` says so. Raises RecipeError for an unknown name.
    """
    planned = [(plan, choice) for choice in _named(coder) if (plan := choice.plan(symbols)) is not None]
    best: Encoded | None = None
    best_key = (0, 0)
    for plan, choice in sorted(planned, key=lambda pair: (pair[0].expected, pair[1].id)):
        if best is not None and ((plan.least, choice.id) >= best_key or _hopeless(plan, best)):
            continue
        encoded = plan.write()
        key = (len(encoded.payload), choice.id)
        if best is None or key < best_key:
            best, best_key = encoded, key
    return best if best is not None else encode(symbols, "raw")


def _hopeless(plan: Plan, best: Encoded) -> bool:
    return len(best.payload) >= LARGE and plan.expected > len(best.payload) * (1 - 1 / 4096)


def decode(coder: str, payload: bytes, length: int, alphabet: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """int32 [length] in [0, alphabet): what `encode` was given, `shape` included.

    Raises CodingError with the reason for a payload that is not well-formed, in time and memory bounded by `length`,
    `alphabet` and `len(payload)`. A payload altered so that it is still well-formed gives other symbols in range.
    """
    if length < 0 or not 0 <= alphabet <= 1 << 31 or (length and not alphabet):
        raise CodingError(f"there is no row of {length} symbols from an alphabet of {alphabet}")
    if coder not in CODERS:
        raise CodingError(f"unknown coder '{coder}'")
    return CODERS[coder].decode(payload, length, alphabet, shape)


def _named(name: str) -> list[Coder]:
    coders = sorted((CODERS[known] for known in CODERS), key=lambda coder: coder.id)
    groups = [(coder, (BEST, coder.family, coder.name, *([] if coder.thorough else [AUTO]))) for coder in coders]
    chosen = [coder for coder, names in groups if name in names]
    if not chosen:
        known = {AUTO, BEST, *CODERS, *(coder.family for coder in coders)}
        raise RecipeError(f"unknown coder '{name}'{nearest(name, known)}", ("code", "coder"))
    return chosen
