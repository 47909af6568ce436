"""tersenet: trained PyTorch networks made small and fast, with proof.

>>> import tersenet
>>> outcome = tersenet.compress(model, "recipe.yaml", data)  # doctest: +SKIP
>>> tersenet.load(outcome.file, model=fresh)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tersenet.core.version import __version__

__all__ = ["Recipe", "compress", "load", "save", "__version__"]

if TYPE_CHECKING:
    from tersenet.api import compress, load, save
    from tersenet.core.recipe import Recipe


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when something is used, so that the command line answers at once."""
    if name in ("compress", "load", "save"):
        from tersenet import api

        return getattr(api, name)
    if name == "Recipe":
        from tersenet.core.recipe import Recipe

        return Recipe
    raise AttributeError(f"module 'tersenet' has no attribute '{name}'")
