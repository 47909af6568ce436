"""What a run starts from: a training is found again where all of it is the same, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tersenet.core.recipe import Recipe
from tersenet.data import as_splits
from tersenet.flow.origin import first_key, origin
from tersenet.models import build


class Applied(nn.Module):
    """Holds a function, whose text has the address of an object in it."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(3, 2), function

    def extra_repr(self) -> str:
        return f"{object()}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(x))


def splits(seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 3, generator=generator), torch.zeros(8, dtype=torch.int64)
    return as_splits({"train": (x, y), "validation": (x, y)})


def keys(recipe: dict[str, Any], model: nn.Module) -> tuple[str, str]:
    parsed = Recipe.parse(recipe)
    return first_key(parsed, model, splits()), origin(parsed, model, splits())


def seeded(made: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return made()


def test_models_of_equal_weights_that_compute_different_things_do_not_share_a_training() -> None:
    """MobileNet at half the resolution begins with the weights of the whole one."""
    found = []
    for resolution in (1.0, 0.5):
        recipe = {"model": {"name": "mobilenet_v1", "kwargs": {"image": 32, "width": 0.25, "resolution": resolution}}}
        found.append(keys(recipe, build(Recipe.parse(recipe).model, 0)))  # type: ignore[arg-type]
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


@pytest.mark.parametrize("place", [0, 1])
def test_modules_without_weights_count(place: int) -> None:
    found = {
        keys({}, seeded(lambda other=other: nn.Sequential(nn.Linear(3, 2), other)))[place]  # type: ignore[misc]
        for other in (nn.ReLU(), nn.Tanh(), nn.Dropout(0.1), nn.Dropout(0.2))
    }
    assert len(found) == 4


def test_where_objects_lie_in_memory_does_not() -> None:
    assert keys({}, seeded(Applied)) == keys({}, seeded(Applied))


def test_another_process_finds_it() -> None:
    code = (
        "import torch; from torch import nn; from tersenet.flow.origin import structure; torch.manual_seed(0);"
        "print(structure(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.1))))"
    )
    once, again = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2))
    assert once.stdout == again.stdout != ""
