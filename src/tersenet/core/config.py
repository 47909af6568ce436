"""Frozen, strict settings: an unknown key or a wrong type is one sentence with the place and the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from tersenet.core.errors import RecipeError
from tersenet.core.registry import nearest


class Config(BaseModel):
    """Base of everything a recipe is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, value: Any, path: tuple[str | int, ...] = ()) -> Self:
        """Check `value` (a mapping or already a `Config`) that stands at `path` of the recipe.

        Raises RecipeError, which says the place in words and as a path.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            inner = tuple(key for key in first["loc"] if not str(key).startswith("function-"))
            place = (*path, *inner)
            raise RecipeError(f"{spell(place)}: {_sentence(cls, inner, first)}", place) from None
        except RecipeError as error:
            if error.path or not path:
                raise
            raise RecipeError(f"{spell(path)}: {error}", path) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, defaults omitted: what is hashed, stored and shown."""
        return self.model_dump(mode="json", exclude_defaults=True)


def spell(path: tuple[str | int, ...]) -> str:
    """('stages', 0, 'lr') → 'stages[0].lr'."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.lstrip(".") or "recipe"


def _sentence(cls: type[Config], inner: tuple[str | int, ...], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        owner: Any = cls
        for key in inner[:-1]:
            owner = _field_type(owner, key)
        known = owner.model_fields if isinstance(owner, type) and issubclass(owner, Config) else ()
        return f"unknown key '{inner[-1]}'{nearest(str(inner[-1]), known)}"
    if error["type"] == "missing":
        return "is missing"
    message = re.sub(r"^(Value|Assertion) error, ", "", error["msg"])
    message = message[:1].lower() + message[1:]
    given = error.get("input")
    return message if isinstance(given, Mapping) or error["type"] == "value_error" else f"{message}, not {given!r}"


def _field_type(owner: Any, key: str | int) -> Any:
    """The Config class behind field `key`, if there is one (also through `| None` and tuples)."""
    if not (isinstance(owner, type) and issubclass(owner, Config)) or key not in owner.model_fields:
        return owner
    annotation = owner.model_fields[str(key)].annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Config):
            return candidate
    return None
