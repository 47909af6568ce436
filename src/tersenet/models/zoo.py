"""The registry of models: a newcomer is one file here and one `@register_model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from tersenet.core.registry import Registry


@dataclass(frozen=True)
class ZooEntry:
    """How to build a model and what it takes: `input` is the shape of one example, without the batch axis."""

    builder: Callable[..., nn.Module]
    input: tuple[int, ...]

    def __call__(self, **kwargs: Any) -> nn.Module:
        return self.builder(**kwargs)


INPUTS, CHANNELS, IMAGE = "inputs", "channels", "image"
"""What arguments are called that change the input of a model: numbers of one example, channels, height and width."""

MODELS: Registry[ZooEntry] = Registry("model")

B = TypeVar("B", bound=Callable[..., nn.Module])


def register_model(name: str, *, input: tuple[int, ...]) -> Callable[[B], B]:
    """Put a class or function, whose keyword arguments all have defaults, into the zoo. input: the shape of one example
    with these; arguments by which it changes are called `INPUTS`, `CHANNELS` and `IMAGE`."""

    def add(builder: B) -> B:
        MODELS.register(name)(ZooEntry(builder, input))
        return builder

    return add


def input_shape(name: str, kwargs: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """Shape of one example, without the batch axis, say (1, 28, 28), of a model with these arguments."""
    shape, given = MODELS[name].input, kwargs or {}
    if INPUTS in given:
        return (given[INPUTS],)
    side = given.get(IMAGE)
    return (given.get(CHANNELS, shape[0]), *((side, side) if side is not None else shape[1:]))
