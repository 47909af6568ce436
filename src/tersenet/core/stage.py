"""What a compression method is to the rest of the system: a frozen set of options with `apply(model, context)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import Field

from tersenet.core.config import Config, spell
from tersenet.core.errors import RecipeError
from tersenet.core.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tersenet.core.training import Training


class Phase(IntEnum):
    """What a stage settles about a weight. On one tensor, phases never go backwards: what stands, stays."""

    NOTHING = 0
    """nothing: it may stand anywhere"""
    SHAPE = 1
    """how large the tensor is (channels, rank)"""
    SUPPORT = 2
    """which of its entries may differ from zero"""
    VALUES = 3
    """which values those entries may take"""


class RunContext(Protocol):
    """What a stage may ask of the run. Given to it; it knows no data set, no device and no file."""

    seed: int
    dry: bool
    """Nothing is trained and no value counts, only how many there are: a stage may pass over what takes long."""

    def finetune(
        self,
        model: nn.Module,
        training: Training,
        *,
        on_step: Callable[[int, int], None] | None = None,
        penalty: Callable[[int, int], torch.Tensor] | None = None,
    ) -> None:
        """Train `model` in place. `on_step(step, steps)` is called before the first step (0) and after each;
        `penalty(step, steps)`, a scalar of the parameters, is added to the loss of the step that is number `step` + 1.
        """

    def evaluate(self, model: nn.Module, split: str = "validation") -> dict[str, float]:
        """Loss and, for a classifier, error (a share in [0, 1]) on a split, and how many `examples` it has; stages use
        'validation' only."""

    def batches(
        self, split: Literal["train", "validation"] = "train", count: int | None = None, batch_size: int = 128
    ) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        """(inputs, target) of the first `count` batches of one shuffled pass, or of all of it, on the run's device.
        Each call gives the same ones, and so does every process."""

    def loss(self, model: nn.Module, batch: tuple[tuple[torch.Tensor, ...], torch.Tensor]) -> torch.Tensor:
        """The run's objective on one batch, a scalar that carries gradients."""

    def initial_weights(self) -> Mapping[str, torch.Tensor] | None:
        """{name: weight, on the CPU} before this run trained anything; None if it began with trained weights."""

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A stream of random numbers of its own for this stage and purpose."""

    def note(self, sentence: str) -> None:
        """One line for the report: something that could not be done, with the reason."""


class Stage(Config):
    """One step of a recipe. Subclass it, write `apply`, and put `@register_stage("room.name")` above.

    targets: shell patterns on the full name of a weight ('fc1.weight'), of its layer ('fc1', 'features.*') or on the
        layer's class ('Linear'). Empty: the weights of all linear, convolution and embedding layers.
    ignore: the same, taken away from the targets.
    """

    method: ClassVar[str] = ""
    phase: ClassVar[Phase] = Phase.VALUES

    targets: tuple[str, ...] = Field((), description="weights, layers or layer classes, as shell patterns; empty: all")
    ignore: tuple[str, ...] = Field((), description="taken away from the targets")

    def apply(self, model: nn.Module, context: RunContext) -> nn.Module:
        raise NotImplementedError

    def check(self, model: nn.Module) -> None:
        """Raises RecipeError where the options do not fit `model`; asked before anything is trained."""

    def settles(self) -> Phase:
        """What it settles with these options; other than `phase` only where they make it settle less."""
        return self.phase

    def options_for(self) -> Iterable[str]:
        """Patterns used in per-layer options (`sparsity: {fc1: 0.9}`), which must each match something."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, **super().to_dict()}


STAGES: Registry[type[Stage]] = Registry("method")

S = TypeVar("S", bound=type[Stage])


def register_stage(name: str) -> Callable[[S], S]:
    def add(cls: S) -> S:
        cls.method = name
        STAGES.register(name)(cls)
        return cls

    return add


def parse_stage(value: Any, path: tuple[str | int, ...] = ()) -> Stage:
    """A stage from `{method: …, …}`; raises RecipeError with the place."""
    if isinstance(value, Stage):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("method"), str):
        raise RecipeError(f"{spell(path)}: needs 'method: NAME' (tersenet methods lists them)", path)
    options = {key: entry for key, entry in value.items() if key != "method"}
    try:
        cls = STAGES[value["method"]]
    except RecipeError as error:
        raise RecipeError(f"{spell(path)}.method: {error}", (*path, "method")) from None
    return cls.parse(options, path)
