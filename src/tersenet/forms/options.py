"""Options of a stage that are one number for all weights or a number for each of some patterns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def one_or_per_layer(value: Any, noun: str, low: float, high: float, *, whole: bool = False, open_: bool = True) -> Any:
    """Check `value`, a number or {pattern: number}; raises ValueError with one sentence.

    Numbers lie in (low, high), or with `open_=False` in [low, high]; with `whole` they are integers.
    """
    if isinstance(value, Mapping):
        if not value:
            raise ValueError(f"{noun} for no layer at all; give one number or {{pattern: number}}")
        for pattern, entry in value.items():
            if not isinstance(pattern, str):
                raise ValueError(f"a layer's name must be text, not {pattern!r}")
            _check(entry, f"for '{pattern}' it ", low, high, whole, open_)
        return dict(value)
    _check(value, "", low, high, whole, open_)
    return value


def _check(value: Any, where: str, low: float, high: float, whole: bool, open_: bool) -> None:
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    inside = isinstance(value, kinds) and not isinstance(value, bool)
    inside = inside and (low < value < high if open_ else low <= value <= high)
    if not inside:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{where}must be {kind} {_span(low, high, open_)}, not {value!r}")


def _span(low: float, high: float, open_: bool) -> str:
    if high == float("inf"):
        return f"greater than {low:g}"
    return f"greater than {low:g} and less than {high:g}" if open_ else f"from {low:g} to {high:g}"
