"""Names for things that can be chosen in a recipe. A newcomer is one file and one registration."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from tersenet.core.errors import RecipeError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'sparsity'?`, or the list of what exists when nothing is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; there are: {', '.join(known)}" if known else ""


class Registry(Generic[T]):
    """A dictionary that knows what its entries are called, and what you may have meant.

    >>> shapes = Registry("shape")
    >>> shapes.register("square")(4)
    4
    >>> shapes["square"]
    4
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise ValueError(f"two {self.noun}s are called '{name}'")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """Raises RecipeError with the nearest name if there is no such entry."""
        try:
            return self._entries[name]
        except KeyError:
            raise RecipeError(f"unknown {self.noun} '{name}'{nearest(name, self._entries)}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
