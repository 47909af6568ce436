"""What can be a stage, as plain values: name, docstring, options with types, defaults and meaning."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from tersenet.core.config import Config
from tersenet.core.stage import STAGES, Stage
from tersenet.flow.prepare import register_methods


def describe_methods(name: str | None = None) -> list[dict[str, Any]]:
    """All methods, or the one called `name`; raises RecipeError with the nearest name if there is none."""
    register_methods()
    names = [name] if name else list(STAGES)
    return [describe(STAGES[each]) for each in names]


def describe(stage: type[Stage]) -> dict[str, Any]:
    return {
        "name": stage.method,
        "phase": stage.phase.name.lower(),
        "about": inspect.cleandoc(stage.__doc__ or ""),
        "options": list(_options(stage)),
    }


def _options(config: type[Config], within: str = "") -> Iterator[dict[str, Any]]:
    """One row for each option; those of a part that is always there by their path, `scoring.batches`."""
    for key, entry in config.model_fields.items():
        default = None if entry.is_required() else entry.get_default(call_default_factory=True)
        if isinstance(default, Config):
            yield from _options(type(default), f"{within}{key}.")
            continue
        yield {
            "name": within + key,
            "type": _type_name(entry.annotation),
            "default": default,
            "required": entry.is_required(),
            "about": entry.description or "",
        }


def _type_name(annotation: Any) -> str:
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    for noise in ("typing.", "tersenet.core.training.", "NoneType"):
        text = text.replace(noise, "" if noise != "NoneType" else "None")
    return text
